"""Encoder-decoder models behind the seam, against their own plain forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.huggingface import EncoderDecoderBackend
from coolfusion.backends.huggingface.encoder_decoder import seq2seq
from coolfusion.backends.huggingface.encoder_decoder.seq2seq_passes import (
    MAX_BRANCHES,
    DecoderPasses,
)
from coolfusion.errors import ContextLengthError, NonFiniteError, SourceError, UsageError
from coolfusion.testing import check_backend
from tests.encoder_decoders import CONFIGS, OTHERS, make_model, model_of
from tests.strategies import id_sequences

torch.set_num_threads(1)

WATCH = (3, 5)
READ = ((8, 9, 10, 11, 12), (20, 21), (8, 9, 10))


def plain(model: Any, backend: EncoderDecoderBackend, query: Query) -> torch.Tensor:
    """Log-probabilities at every position asked about, with nothing cached."""
    encoder, decoder = backend.sides.split(query.prefix)
    embed = model.get_decoder().get_input_embeddings()
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([encoder]),
            decoder_inputs_embeds=embed(torch.tensor([decoder + query.continuation])),
            use_cache=False,
        )
    return torch.log_softmax(output.logits[0].float(), dim=-1)[len(decoder) - 1 :]


def assert_plain(model: Any, backend: EncoderDecoderBackend, query: Query, scores: Scores) -> None:
    """``scores`` are the model's own, and so are the picks unless two ids nearly tie."""
    rows = plain(model, backend, query)
    expected = [float(rows[i, token]) for i, token in enumerate(query.continuation)]
    assert list(scores.log_probs) == pytest.approx(expected, abs=1e-4)
    watched = torch.logsumexp(rows[:, list(query.watch)], dim=-1).tolist()
    assert list(scores.watched) == pytest.approx(watched, abs=1e-4)
    assert len(scores.picks) == len(query.continuation) + 1
    for row, token, log_prob in zip(rows, scores.picks, scores.pick_log_probs, strict=True):
        assert float(row.max() - row[token]) < 1e-4
        assert log_prob == pytest.approx(float(row[token]), abs=1e-4)


@dataclass
class Reading:
    """A backend whose every prefix follows the same encoder input: a decoder, for the laws."""

    backend: EncoderDecoderBackend
    read: tuple[int, ...] = READ[0]

    @property
    def vocab_size(self) -> int:
        return self.backend.vocab_size

    @property
    def context_length(self) -> int | None:
        return self.backend.sides.decoder_length

    def _whole(self, queries: Sequence[Query]) -> list[Query]:
        join = self.backend.sides.join
        return [replace(query, prefix=join(self.read, query.prefix)) for query in queries]

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        return self.backend.score(self._whole(queries))

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        return self.backend.distributions(self._whole(queries))

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        return self.backend.draft(self._whole(queries), num_tokens)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are not found by trying again for each of the laws."""

    def passes(model: Any, sides: Any, *_: Any) -> Any:
        return DecoderPasses(model, sides.split, max_inputs=2, max_branches=MAX_BRANCHES)

    monkeypatch.setattr(seq2seq, "_choose_passes", passes)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", CONFIGS)
def test_laws(kind: str) -> None:
    model = model_of(kind)
    check_backend(lambda: Reading(EncoderDecoderBackend(model)), tolerance=2e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_way_that_is_found_by_trying(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EncoderDecoderBackend(model_of(kind)).strategy == "cached"
    monkeypatch.setattr(seq2seq, "agrees", lambda *_: False)
    backend = EncoderDecoderBackend(model_of(kind))
    assert backend.strategy == "recomputed"
    for query in queries_of(backend):
        assert_plain(model_of(kind), backend, query, backend.score([query])[0])


@pytest.mark.parametrize("kind", OTHERS)
def test_stranger_models(kind: str) -> None:
    model = make_model(kind)
    backend = EncoderDecoderBackend(model)
    assert backend.strategy == ("recomputed" if kind == "prophetnet" else "cached")
    assert (backend.slow_because is None) == (backend.strategy == "cached")
    for _ in range(2):
        queries = queries_of(backend)
        for query, scores in zip(queries, backend.score(queries), strict=True):
            assert_plain(model, backend, query, scores)


def test_a_model_whose_vocabularies_are_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("t5")
    monkeypatch.setattr(model, "get_encoder", torch.nn.Identity)
    with pytest.raises(UsageError, match="two vocabularies"):
        EncoderDecoderBackend(model)


def queries_of(backend: EncoderDecoderBackend) -> list[Query]:
    join = backend.sides.join
    return [
        Query(join(READ[0], (2, 30, 31)), (32, 33), WATCH),
        Query(join(READ[0], (2, 30, 31)), (34,), WATCH),
        Query(join(READ[1], (2, 30)), (), WATCH),
        Query(join(READ[0], (2,)), (30, 31, 32, 40, 41, 42, 43), WATCH),
        Query(join(READ[2], (2, 50, 51, 52, 53, 54)), (55,), WATCH),
        Query(join(READ[0], (2, 30, 31)), (32, 33), WATCH),
    ]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_mixed_batch_says_what_each_says_alone(kind: str) -> None:
    model, backend = model_of(kind), EncoderDecoderBackend(model_of(kind))
    for _ in range(2):
        queries = queries_of(backend)
        for query, scores in zip(queries, backend.score(queries), strict=True):
            assert_plain(model, backend, query, scores)
        for query, found in zip(queries, backend.distributions(queries), strict=True):
            rows = plain(model, backend, query).double()
            assert found.log_probs == pytest.approx(rows.numpy(), abs=1e-4)


class CacheMachine(RuleBasedStateMachine):
    """Texts after several inputs that grow, are rewound and interleaved."""

    kind = "t5"

    def __init__(self) -> None:
        super().__init__()
        self.model = model_of(self.kind)
        self.backend = EncoderDecoderBackend(self.model, max_inputs=2)
        self.texts: list[tuple[int, ...]] = [(2,), (2, 30), (2, 30, 31)]

    which = st.integers(0, 2)

    def query(self, k: int, back: int, continuation: tuple[int, ...]) -> Query:
        text = self.texts[k][: max(1, len(self.texts[k]) - back)]
        return Query(self.backend.sides.join(READ[k], text), continuation, WATCH)

    def ask(self, *queries: Query) -> None:
        for query, scores in zip(queries, self.backend.score(queries), strict=True):
            assert_plain(self.model, self.backend, query, scores)

    @rule(k=which, segments=st.lists(id_sequences(83, 0, 4), min_size=1, max_size=3))
    def score_and_commit(self, k: int, segments: list[tuple[int, ...]]) -> None:
        self.ask(*(self.query(k, 0, segment) for segment in segments))
        self.texts[k] += segments[-1]

    @rule(k=which, back=st.integers(1, 5), continuation=id_sequences(83, 0, 3))
    def rewind(self, k: int, back: int, continuation: tuple[int, ...]) -> None:
        self.ask(self.query(k, back, continuation))
        self.texts[k] = self.texts[k][: max(1, len(self.texts[k]) - back)] + continuation

    @rule(back=st.integers(0, 3), continuation=id_sequences(83, 1, 3))
    def interleave(self, back: int, continuation: tuple[int, ...]) -> None:
        self.ask(*(self.query(k, back * k, continuation[k:]) for k in (2, 0, 1, 0)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", CONFIGS)
def test_caches_never_show(kind: str) -> None:
    machine = type(f"CacheMachineOf{kind}", (CacheMachine,), {"kind": kind})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=4, stateful_step_count=10, deadline=None)
    )
    assert len(machine().texts) == len(READ)


@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_is_computed_twice(kind: str) -> None:
    backend = EncoderDecoderBackend(model_of(kind))
    text, spent, passes = backend.sides.join(READ[0], (2, 30, 31)), 0, 0
    for _ in range(8):
        drafted = backend.draft([Query(text, (), WATCH)], 1)[0]
        text += drafted.picks
        spent += drafted.num_forwarded
        passes += drafted.num_passes
    assert spent == len(READ[0]) + 3 + 7
    assert passes == 1 + 8


def test_an_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("t5")
    backend = EncoderDecoderBackend(model)
    seen: list[int] = []
    encoder = model.get_encoder()
    forward = encoder.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].shape[0])
        return forward(*args, **kwargs)

    monkeypatch.setattr(encoder, "forward", counted)
    for _ in range(3):
        backend.score(queries_of(backend))
        backend.draft(queries_of(backend), 2)
    assert seen == [3]  # three inputs, in one pass


@pytest.mark.parametrize("kind", CONFIGS)
def test_candidates_and_texts_share_a_pass(kind: str) -> None:
    backend = EncoderDecoderBackend(model_of(kind))
    texts = [backend.sides.join(read, (2, 30)) for read in READ]
    backend.score([Query(text) for text in texts])
    asked = [Query(text, (40 + i, 50), WATCH) for text in texts for i in range(3)]
    calls: list[int] = []
    model = model_of(kind)
    forward = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    model.forward = counted
    try:
        answers = backend.score(asked)
    finally:
        del model.forward
    assert len(calls) == 1
    assert sum(answer.num_forwarded for answer in answers) == 9 * 3


def test_texts_of_one_input_stay_bounded() -> None:
    backend = EncoderDecoderBackend(model_of("t5"), max_inputs=3)
    for number in range(40):
        prefix = backend.sides.join((number % 7 + 2,), (2, 30 + number % 5))
        query = Query(prefix, (number, number + 1), WATCH)
        assert_plain(model_of("t5"), backend, query, backend.score([query])[0])
    readings = backend._passes._readings
    assert len(readings) <= 3
    assert all(len(reading.branches) <= MAX_BRANCHES for reading in readings.values())


def test_a_prefix_has_both_sides() -> None:
    backend = EncoderDecoderBackend(model_of("marian"))
    size = backend.vocab_size
    assert size == 83
    for prefix in (
        (2, 3),
        (size + 4,),
        (size + 4, 2, size + 5),
        (2, size + 4),
        (size + 97, 2),
        (size + 4, -1),
    ):
        with pytest.raises(SourceError):
            backend.score([Query(prefix)])
    for token in (size, -1):
        with pytest.raises(SourceError, match="vocabulary"):
            backend.score([Query((size + 4, 2), (token,))])
    assert backend.score([Query((size + 96, 2), (82,))])[0].log_probs


def test_each_side_has_its_limit() -> None:
    backend = EncoderDecoderBackend(model_of("bart"))
    join = backend.sides.join
    assert backend.context_length == 128
    assert EncoderDecoderBackend(model_of("t5")).context_length is None
    backend.score([Query(join((5,) * 64, (2,) * 60), (7,) * 4)])
    with pytest.raises(ContextLengthError, match="65 tokens for the encoder"):
        backend.score([Query(join((5,) * 65, (2,)))])
    with pytest.raises(ContextLengthError, match="65 tokens for the decoder"):
        backend.score([Query(join((5,), (2,) * 60), (7,) * 5)])


def test_what_the_settings_rule_out_is_never_picked() -> None:
    model = make_model("marian")
    prefix = EncoderDecoderBackend(model).sides.join(READ[0], (0,))
    (free,) = EncoderDecoderBackend(model).draft([Query(prefix, watch=WATCH)], 6)
    model.generation_config.bad_words_ids = [[free.picks[0]], [4, 5]]
    backend = EncoderDecoderBackend(model)
    (bound,) = backend.draft([Query(prefix, watch=WATCH)], 6)
    assert free.picks[0] not in bound.picks
    (found,) = backend.distributions([Query(prefix)])
    assert math.exp(found.log_probs[0, free.picks[0]]) == 0
    assert float(torch.logsumexp(torch.tensor(found.log_probs[0]), 0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_is_not_altered(kind: str) -> None:
    model = make_model(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backend = EncoderDecoderBackend(model)
    backend.score(queries_of(backend))
    backend.draft(queries_of(backend), 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_damaged_weights_are_named() -> None:
    model = make_model("t5")
    backend = EncoderDecoderBackend(model)
    with torch.no_grad():
        model.shared.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="NaN"):
        backend.score(queries_of(backend))


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="training mode"):
        EncoderDecoderBackend(make_model("t5").train())
