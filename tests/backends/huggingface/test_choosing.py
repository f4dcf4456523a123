"""The way a model is run: exact past windows and changes of rotation, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface import TransformersBackend, choosing, packed
from coolfusion.backends.huggingface.choosing import ModelKind, Way
from coolfusion.backends.huggingface.miniature import boundaries, miniature
from coolfusion.errors import UsageError
from tests.architectures import build
from tests.backends.huggingface.test_causal import make_model

TEXT = tuple(3 + (7 * i * i + i) % 90 for i in range(90))
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0, 5.0, 7.0, 9.0],
    "original_max_position_embeddings": 32,
    "factor": 4.0,
}


def llama(**changes: Any) -> PreTrainedModel:
    """A small Llama with attention that is not flat."""
    torch.manual_seed(0)
    small = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**small, **heads, **changes})).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.35)
    return model


def after(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return torch.log_softmax(logits.float(), dim=-1)


@pytest.mark.parametrize("end", [10, 28, 31, 32, 33, 60])
def test_keys_that_change_with_the_length_are_not_reused(end: int) -> None:
    """Long rotations replace the short ones once a text has 33 tokens."""
    model = llama(rope_parameters=LONG)
    backend = TransformersBackend(model)
    assert backend.strategy == "packed up to 32 tokens, then recomputed"
    assert "32 tokens" in (backend.slow_because or "")
    backend.score([Query(TEXT[:20], TEXT[20:24], sequence_id=1)])
    (scores,) = backend.score([Query(TEXT[:end], TEXT[end : end + 4], sequence_id=1)])
    wanted = [float(after(model, TEXT[: end + i])[TEXT[end + i]]) for i in range(4)]
    assert scores.log_probs == pytest.approx(wanted, abs=1e-3)
    (found,) = backend.distributions([Query(TEXT[:end], TEXT[end : end + 4])])
    assert found.log_probs.shape == (5, 96)
    assert found.log_probs[4] == pytest.approx(after(model, TEXT[: end + 4]).tolist(), abs=1e-3)


def test_a_model_whose_lengths_cannot_be_tried_uses_a_miniature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The boundary found is that of the model, and the miniature's is another."""
    model = llama(rope_parameters={**LONG, "original_max_position_embeddings": 4096},
                  max_position_embeddings=16384)  # fmt: skip
    monkeypatch.setattr(choosing, "SMALL", 0)
    found = choosing.choose(model, 96, ())
    assert found == Way("packed", 4096, "recomputed")
    small = miniature(type(model), model.config, model.device)
    assert list(boundaries(model.config)) == [4096]
    assert list(boundaries(small.config)) == [16]


def test_where_there_is_no_miniature_nothing_is_cached_past_the_first_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("mistral")
    monkeypatch.setattr(choosing, "SMALL", 0)
    monkeypatch.setattr(choosing, "_way_of_miniature", lambda *_: None)
    assert choosing.choose(model, 97, ()) == Way("packed", 8, "recomputed")


def test_architectures_differ_by_their_settings() -> None:
    one, same, other = llama(), llama(), llama(num_key_value_heads=4)
    assert ModelKind.of(one) == ModelKind.of(same) != ModelKind.of(other)


@pytest.mark.parametrize(("kind", "length"), [("roberta", 254), ("bert", 256), ("opt", 256)])
def test_a_text_may_be_as_long_as_there_are_positions(kind: str, length: int) -> None:
    """RoBERTa counts its positions from 2."""
    model = build(kind, is_decoder=True)
    backend = TransformersBackend(model)
    assert backend.context_length == length
    text = tuple(3 + i % 90 for i in range(length))
    (found,) = backend.score([Query(text[:-1], text[-1:])])
    assert found.picks[1] == int(after(model, text).argmax())


def test_dropout_left_on_somewhere_is_named() -> None:
    model = llama(attention_dropout=0.5)
    model.model.layers[1].self_attn.train()
    with pytest.raises(UsageError, match=r"layers\.1\.self_attn is in training mode"):
        TransformersBackend(model)


def test_answers_that_differ_every_time_are_refused() -> None:
    model = llama()
    model.model.norm.register_forward_hook(lambda _, __, states: states + torch.randn_like(states))
    with pytest.raises(UsageError, match="differently every time"):
        TransformersBackend(model)


@pytest.mark.parametrize("make", [lambda: build("bert"), lambda: build("xlnet")])
def test_a_model_that_looks_ahead_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match="not causal"):
        TransformersBackend(make())


def test_a_long_prompt_is_charged_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "PREFILL", 16)
    backend = TransformersBackend(llama())
    (scores,) = backend.score([Query(TEXT[:70], TEXT[70:73])])
    assert scores.num_forwarded == 73
    assert scores.num_passes == 5
