"""Ids that the files of a checkpoint name, in every shape that people write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from coolfusion import FusionModel
from coolfusion.backends.base import Query
from coolfusion.backends.huggingface import TransformersBackend, load_source
from coolfusion.backends.huggingface.probing import check_weights
from coolfusion.backends.huggingface.special_ids import id_named, ids_named
from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.source import Source
from coolfusion.errors import LoadError, NonFiniteError, SourceError, UsageError
from coolfusion.testing.toys import toy_tokenizer
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer

SIZE = 40
TEXT = ["tom has three apples"] * 3


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, set()),
        (5, {5}),
        ([], set()),
        ([7, 8, 7], {7, 8}),
        ((3,), {3}),
        (-1, set()),
        (SIZE, set()),
        ([0, 99999], {0}),
        (2**70, set()),
        ([10**9, 39], {39}),
    ],
)
def test_ids_that_a_model_has_are_kept(value: Any, found: set[int]) -> None:
    assert ids_named(value, SIZE, "eos_token_id") == found


@pytest.mark.parametrize(
    "value", ["<end>", "2", 2.0, 1e9, True, [[0], [5]], [0, None], ["2"], {"id": 2}, float("nan")]
)
def test_every_other_shape_is_one_clear_error(value: Any) -> None:
    with pytest.raises(LoadError, match=r"eos_token_id of x is .* whole number"):
        ids_named(value, SIZE, "eos_token_id of x")


def test_one_id_is_not_several() -> None:
    assert id_named([4], SIZE, "pad_token_id") == 4
    assert id_named(-1, SIZE, "pad_token_id") is None
    with pytest.raises(LoadError, match="only one id"):
        id_named([4, 5], SIZE, "pad_token_id")


def folder(path: Path, *, num_more: int = 0, **generation: Any) -> Path:
    """A tiny Llama with a toy tokenizer, and ``num_more`` rows that no token has."""
    torch.manual_seed(0)
    raw = toy_tokenizer(TEXT)
    config = LlamaConfig(
        vocab_size=raw.get_vocab_size() + num_more,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_()
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>").save_pretrained(path)
    file = path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | generation))
    return path


def assert_no_failure(source: Source) -> None:
    """A random model may draw half a character, but nothing else keeps it from going on."""
    warnings = FusionModel([source]).generate("tom has", max_new_tokens=6).warnings
    assert all("not UTF-8" in each for each in warnings)


@pytest.mark.parametrize("value", [[0, 99999], -1, 2**70, None, [], [0, 0]])
def test_a_source_with_odd_end_ids_stays_in_the_fusion(value: Any, tmp_path: Path) -> None:
    source = load_source(folder(tmp_path, eos_token_id=value), "x")
    assert source.tokenizer.end_ids == {0}
    assert_no_failure(source)


@pytest.mark.parametrize("value", ["<end>", [[0], [5]], 1e9, True, {"a": 1}])
def test_a_shape_that_means_nothing_is_refused_when_loading(value: Any, tmp_path: Path) -> None:
    with pytest.raises(LoadError):
        load_source(folder(tmp_path, eos_token_id=value), "x")


def test_a_piece_of_text_may_end_a_response(tmp_path: Path) -> None:
    source = load_source(folder(tmp_path, eos_token_id=[0, 5]), "x")
    assert source.tokenizer.piece(5) is not None
    assert source.tokenizer.end_ids == {0, 5}
    assert_no_failure(source)


def ngram_source(end_ids: Any) -> Source:
    """A source whose caller names its end ids."""
    tokenizer = HuggingFaceTokenizer(toy_tokenizer(TEXT), end_ids=end_ids)
    texts = [(*tokenizer.encode(text), 0) for text in TEXT]
    return Source("x", tokenizer, NgramBackend(texts, max(tokenizer.ids) + 1))


@pytest.mark.parametrize("more", [(), (99999,), (-1,), (2**70,), (0,)])
def test_end_ids_of_a_caller_that_no_model_has_are_left_out(more: tuple[int, ...]) -> None:
    response = FusionModel([ngram_source([0, *more])]).generate("tom has", max_new_tokens=6)
    assert response.text == " three apples"
    assert response.warnings == ()


@pytest.mark.parametrize("value", [5, None, "01", [True], ["0"], [1.0], [[0]], [None]])
def test_end_ids_of_a_caller_that_are_no_ids_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="end_ids"):
        ngram_source(value)
    source = ngram_source([0])
    source.tokenizer.end_ids = value
    with pytest.raises(UsageError, match='tokenizer of source "x" has end_ids'):
        FusionModel([source])


def test_ids_that_an_n_gram_model_has_not_cannot_be_watched() -> None:
    with pytest.raises(SourceError, match="outside the vocabulary"):
        ngram_source([0]).backend.score([Query((1, 2), (), (99999,))])


def test_watched_ids_that_no_model_has_are_named(tmp_path: Path) -> None:
    backend = load_source(folder(tmp_path), "x").backend
    for token in (99999, -1):
        with pytest.raises(SourceError, match="outside the model's vocabulary"):
            backend.score([Query((1, 2), (), (token,))])


def test_rows_that_are_no_token_have_no_probability(tmp_path: Path) -> None:
    """Not even if they come out on top; the others keep their odds and sum to 1."""
    source = load_source(folder(tmp_path, num_more=9), "x")
    model = source.backend._model
    size = len(source.tokenizer.ids)
    assert source.backend.vocab_size == size < model.config.vocab_size
    with torch.no_grad():
        model.lm_head.weight[size:] = 50 * model.lm_head.weight[:1]
    ids = source.tokenizer.encode("tom has")
    plain = TransformersBackend(model).distributions([Query(ids)])[0].log_probs[0]
    found = source.backend.distributions([Query(ids)])[0].log_probs[0]
    odds = found - plain[:size]
    assert odds == pytest.approx([odds[0]] * size, abs=1e-4)
    assert source.backend.score([Query(ids)])[0].picks[0] < size
    assert_no_failure(source)


def test_unused_ids_between_tokens_have_no_probability() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    backend = TransformersBackend(LlamaForCausalLM(config).eval(), token_ids=range(0, 32, 2))
    (found,) = backend.distributions([Query((2, 4), (6,))])
    assert (found.log_probs[:, 1::2] == -float("inf")).all()
    assert found.log_probs.shape == (2, 31)
    (scores,) = backend.score([Query((2, 4), (6,))])
    assert scores.log_probs[0] == pytest.approx(found.log_probs[0, 6], abs=1e-5)


def test_a_tokenizer_with_more_text_than_the_model_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    raw = toy_tokenizer(["tom has three apples", "zoë ate 14 pears quickly"] * 3)
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>").save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"tokens of text that the model has no row for"):
        load_source(tmp_path, "x")


@pytest.mark.parametrize(("value", "is_refused"), [(float("nan"), True), (-float("inf"), False)])
def test_buffers_may_be_infinite_but_not_undefined(value: float, is_refused: bool) -> None:
    part = torch.nn.Module()
    part.register_buffer("mask", torch.full((2, 2), value))
    if is_refused:
        with pytest.raises(NonFiniteError, match="weights mask hold 4 numbers"):
            check_weights(part)
    else:
        check_weights(part)


def test_weights_that_are_not_finite_are_named_when_loading(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][7, 3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"embed_tokens\.weight hold 1 numbers of .* NaN"):
        load_source(tmp_path, "x")
