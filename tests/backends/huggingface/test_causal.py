"""Models of many architectures behind the seam, against their own plain forward passes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
import transformers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.huggingface import TransformersBackend, packed, token_tree
from coolfusion.errors import NonFiniteError, UsageError
from coolfusion.testing import check_backend
from tests.strategies import id_sequences

torch.set_num_threads(1)

VOCAB = 97
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": COMMON,
    "qwen2": COMMON,
    "gpt2": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mistral": {**COMMON, "sliding_window": 8},
    "gemma2": {**COMMON, "sliding_window": 8},
    "gemma3_text": {**COMMON, "sliding_window": 8},
    "bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "lfm2": {**COMMON, "layer_types": ["conv", "full_attention"]},
    "qwen3_next": {
        **COMMON,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
}
PACKED = ("llama", "qwen2", "gpt2", "mistral", "gemma2", "gemma3_text")
WATCH = (3, 5)


def make_model(kind: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@lru_cache
def model_of(kind: str) -> Any:
    return make_model(kind)


def plain(model: Any, query: Query) -> torch.Tensor:
    """Log-probabilities at every position asked about, without any cache."""
    with torch.inference_mode():
        ids = torch.tensor([list(query.prefix + query.continuation)])
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    return torch.log_softmax(logits, dim=-1)[len(query.prefix) - 1 :]


def assert_plain(model: Any, query: Query, scores: Scores) -> None:
    """``scores`` are the model's own, and so are the picks unless two ids nearly tie."""
    rows = plain(model, query)
    expected = [float(rows[i, token]) for i, token in enumerate(query.continuation)]
    assert list(scores.log_probs) == pytest.approx(expected, abs=1e-4)
    watched = torch.logsumexp(rows[:, list(query.watch)], dim=-1).tolist()
    assert list(scores.watched) == pytest.approx(watched, abs=1e-4)
    assert len(scores.picks) == len(query.continuation) + 1
    for row, token, log_prob in zip(rows, scores.picks, scores.pick_log_probs, strict=True):
        assert float(row.max() - row[token]) < 1e-4
        assert log_prob == pytest.approx(float(row[token]), abs=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_laws(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    way = TransformersBackend(model)._way  # found by trying once, not for each of the laws
    monkeypatch.setattr("coolfusion.backends.huggingface.causal.choose", lambda *_: way)
    check_backend(lambda: TransformersBackend(model), tolerance=2e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_strategy_found_by_trying(kind: str) -> None:
    wanted = "packed" if kind in PACKED else "snapshots"
    assert TransformersBackend(model_of(kind)).strategy == wanted


class CacheMachine(RuleBasedStateMachine):
    """Two texts that grow, are rewound and interleaved; every answer is the plain one."""

    kind = "llama"
    uses_lanes = False

    def __init__(self) -> None:
        super().__init__()
        self.model = model_of(self.kind)
        self.backend = TransformersBackend(self.model, max_rows=2)
        self.texts: list[tuple[int, ...]] = [tuple(range(1, 12)), (1, 2, 3, 4, 5, 40, 41)]

    which = st.integers(0, 1)

    def ask(self, *queries: Query) -> None:
        lanes = {self.texts[0][:3]: 1, self.texts[1][:3]: 2} if self.uses_lanes else {}
        queries = tuple(
            replace(query, sequence_id=lanes.get(query.prefix[:3])) for query in queries
        )
        for query, scores in zip(queries, self.backend.score(queries), strict=True):
            assert_plain(self.model, query, scores)

    @rule(k=which, segments=st.lists(id_sequences(VOCAB, 0, 4), min_size=1, max_size=3))
    def score_and_commit(self, k: int, segments: list[tuple[int, ...]]) -> None:
        text = self.texts[k]
        self.ask(*(Query(text, segment, WATCH) for segment in segments))
        self.texts[k] = text + segments[-1]

    @rule(k=which, num_tokens=st.integers(1, 3), keep=st.booleans())
    def draft(self, k: int, num_tokens: int, keep: bool) -> None:
        text = self.texts[k]
        drafted = self.backend.draft([Query(text, (), WATCH)], num_tokens)[0]
        after = Query(text, drafted.picks, WATCH)
        rows = plain(self.model, after)
        for row, token, value in zip(rows, drafted.picks, drafted.log_probs, strict=False):
            assert value == pytest.approx(float(row[token]), abs=1e-4)
            assert float(row.max() - row[token]) < 1e-4
        if keep:
            self.texts[k] = text + drafted.picks

    @rule(k=which, by=st.integers(1, 6))
    def rewind(self, k: int, by: int) -> None:
        self.texts[k] = self.texts[k][: max(3, len(self.texts[k]) - by)]
        self.ask(Query(self.texts[k], (9,), WATCH))

    @rule(k=which, end=st.integers(1, 3), segment=id_sequences(VOCAB, 1, 3))
    def rewrite_the_end(self, k: int, end: int, segment: tuple[int, ...]) -> None:
        self.texts[k] = self.texts[k][: max(2, len(self.texts[k]) - end)][:40] + segment
        self.ask(Query(self.texts[k][:-1], self.texts[k][-1:], WATCH))

    @rule(segment=id_sequences(VOCAB, 1, 3))
    def interleave(self, segment: tuple[int, ...]) -> None:
        first, second = self.texts
        self.ask(
            Query(first, segment, WATCH),
            Query(second, segment[::-1], WATCH),
            Query(first[:-2], first[-2:], WATCH),
            Query((*second, 7), (), WATCH),
        )


@pytest.mark.parametrize("uses_lanes", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_caches_never_show(kind: str, uses_lanes: bool) -> None:
    attributes = {"kind": kind, "uses_lanes": uses_lanes}
    machine = type(f"CacheMachineOf{kind}", (CacheMachine,), attributes)
    run_state_machine_as_test(
        machine, settings=settings(max_examples=4, stateful_step_count=10, deadline=None)
    )


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("sequence_id", [None, 7])
def test_nothing_is_computed_twice(kind: str, sequence_id: int | None) -> None:
    backend = TransformersBackend(model_of(kind))
    text = prompt = tuple(range(1, 11))
    spent = 0
    for _ in range(8):
        drafted = backend.draft([Query(text, (), WATCH, sequence_id=sequence_id)], 1)[0]
        text += drafted.picks
        spent += drafted.num_forwarded
    assert spent == len(prompt) + 7


def test_branches_stay_cached_while_the_text_is_near() -> None:
    backend = TransformersBackend(model_of("llama"))
    text = tuple(range(1, 11))
    backend.score([Query(text, (20, 21, 22), WATCH, sequence_id=1)])
    backend.draft([Query((*text, 30, 31), (), WATCH, sequence_id=1)], 2)
    resumed = backend.score([Query((*text, 20, 21, 22), (23,), WATCH, sequence_id=1)])[0]
    assert (
        resumed.num_forwarded == 2
    )  # the last token of the prefix, for its logits, and the new one


def test_texts_share_the_beginning_of_another() -> None:
    backend = TransformersBackend(model_of("llama"))
    system = tuple(i * 7 % VOCAB for i in range(120))
    for sequence_id in range(3):
        query = Query((*system, sequence_id), (), WATCH, sequence_id=sequence_id)
        assert_plain(model_of("llama"), query, backend.score([query])[0])
        backend.score(
            [Query((*system, sequence_id, sequence_id), (), WATCH, sequence_id=sequence_id)]
        )
    fresh = Query((*system, 9), (), WATCH, sequence_id=9)
    scores = backend.score([fresh])[0]
    assert_plain(model_of("llama"), fresh, scores)
    assert scores.num_forwarded < 40


def test_the_cache_stays_as_short_as_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_tree, "ROOM", 8)
    monkeypatch.setattr(token_tree, "REACH", 4)
    backend = TransformersBackend(model_of("llama"))
    text = tuple(range(1, 11))
    for number in range(100):
        candidates = [(number % VOCAB, 5), (number % VOCAB, 6, 7), (number * 3 % VOCAB, 8)]
        backend.score([Query(text, ids, WATCH, sequence_id=1) for ids in candidates])
        text += candidates[number % 3][:1]
        row = backend._passes._places.row(0)
        assert row.num_slots <= len(text) + 5 * token_tree.ROOM
    query = Query(text[:-3], text[-3:], WATCH, sequence_id=1)
    assert_plain(model_of("llama"), query, backend.score([query])[0])


def test_candidates_of_one_text_share_a_pass() -> None:
    backend = TransformersBackend(model_of("llama"))
    answers = backend.score([Query((1, 2, 3), (4, token), WATCH) for token in (5, 6, 7)])
    assert sum(answer.num_passes for answer in answers) == 1
    assert sum(answer.num_forwarded for answer in answers) <= 3 + 6


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_is_not_altered(kind: str) -> None:
    model = make_model(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    query = Query(tuple(range(12)), (5, 6), WATCH)
    expected = plain(model, query)
    backend = TransformersBackend(model)
    backend.draft([query], 2)
    backend.score([query, replace(query, continuation=(7,))])
    assert torch.equal(plain(model, query), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_damaged_weights_are_named(kind: str) -> None:
    model = make_model(kind)
    backend = TransformersBackend(model)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="NaN"):
        backend.score([Query((1, 2), (3,))])
    with pytest.raises(NonFiniteError, match=r"embed.*hold 3,104 numbers of 3,104"):
        TransformersBackend(model)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_long_prompts_go_in_by_pieces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "PREFILL", 16)
    model = model_of(kind)
    backend = TransformersBackend(model)
    prefix = tuple(i * i % VOCAB for i in range(90))
    queries = [Query(prefix, (1, 2, 3), WATCH), Query(prefix[:70], (4,), WATCH)]
    for query, scores in zip(queries, backend.score(queries), strict=True):
        assert_plain(model, query, scores)


@pytest.mark.parametrize("kind", PACKED)
def test_a_longer_new_prefix_beside_a_rewound_one(kind: str) -> None:
    backend = TransformersBackend(model_of(kind))
    text = tuple(range(1, 12))
    backend.score([Query(text, (), WATCH)])
    queries = [Query((*text, 50), (0,), WATCH), Query(text[:-1], (11, 50), WATCH)]
    for query, scores in zip(queries, backend.score(queries), strict=True):
        assert_plain(model_of(kind), query, scores)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="training mode"):
        TransformersBackend(make_model("llama").train())
