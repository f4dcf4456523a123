"""The byte-wise route says what mixing exact next-byte distributions says, and asks for less."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coolfusion.backends.base import Distributions, Query
from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.sampling import Sampling, draw, pick
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.byte_route import decide
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import Mixture
from coolfusion.decoding.mixture.rules import (
    Arithmetic,
    Geometric,
    MixingRule,
    mixed,
)
from coolfusion.decoding.mixture.vocabulary import Vocabulary
from coolfusion.decoding.request import Request, sampling_of
from coolfusion.errors import SourceError
from coolfusion.testing import toy_source
from coolfusion.tokenization.covers import END, Covering
from coolfusion.types import StopReason

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
STORY = "the cat sat on the mat. the dog sat on the log. don't they're 1234 caf\u00e9 \u65e5\u672c\u8a9e\n"
OTHER = (
    "the cow sat in the sun. a dog and a cat, 12 of them \U0001f44d. they don't mind\n\n  at all "
)


@lru_cache
def source(name: str, family: str, text: str = STORY) -> Source:
    return toy_source(name, [text] * 3, family=family, vocab_size=330, order=5)


def decoder(sources: Sequence[Source], rule: MixingRule | None = None, **options) -> MixtureDecoder:
    return MixtureDecoder(sources, Mixture(rule or Arithmetic(), route="bytes", **options))


def eager(
    sources: Sequence[Source], rule: MixingRule, weights: np.ndarray, prompt: str, request: Request
) -> str:
    """The mixture by the book: every source asked about everything, at every byte."""
    coverings = [Covering(s.tokenizer, s.backend.vocab_size) for s in sources]
    prompts = [s.tokenizer.encode_prompt(prompt) for s in sources]
    covers = [covering.begin() for covering in coverings]
    data, whole, fewest = b"", b"", 0
    while True:
        rows, voices = [], []
        for k, (each, covering) in enumerate(zip(sources, coverings, strict=True)):
            for _ in range(2):
                asked = {
                    ids: each.backend.distributions([Query(prompts[k] + ids)])[0].log_probs[0]
                    for ids in covers[k].unknown
                }
                covers[k] = covering.learn(covers[k], asked)
                row = covering.bounds(covers[k]).lower
                if row.any() or covers[k].pending:
                    break
                covers[k] = covering.begin(covers[k].canonical)
            if row.any():
                voices.append(k)
                with np.errstate(divide="ignore"):
                    rows.append(np.log(row))
        shares = weights[voices] / weights[voices].sum()
        sampling = sampling_of(request, "mixture")
        if rule.is_linear and not sampling.is_greedy:
            drawn = draw(shares, sampling_of(request, "source").seed, len(data))
            rows, shares = [rows[drawn]], np.ones(1)
        outcome = pick(mixed(rule, np.array(rows), shares), sampling, len(data))
        if outcome == END:
            return whole.decode()
        data += bytes([outcome])
        covers = [c.advance(cover, outcome) for c, cover in zip(coverings, covers, strict=True)]
        if not covers[0].pending:
            before, fewest = fewest, min(len(cover.canonical.ids) for cover in covers)
            if fewest > request.max_new_tokens:
                return (whole if before == request.max_new_tokens else data).decode()
            whole = data


SAMPLINGS = st.sampled_from(
    [Sampling(), Sampling(1.0, seed=3), Sampling(0.7, seed=5), Sampling(1.0, 3, 0.9, seed=8)]
)


@settings(max_examples=15)
@example(["byte_bpe"] * 3, Arithmetic(), Sampling(1.0, 3, 0.9, seed=8), "the ", 0.5)
@given(
    families=st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=3),
    rule=st.sampled_from([Arithmetic(), Geometric()]),
    sampling=SAMPLINGS,
    prompt=st.sampled_from(["the ", "a dog", "12", "\u65e5"]),
    weight=st.sampled_from([0.2, 0.5, 0.9]),
)
def test_asking_late_changes_nothing(
    families: list[str], rule: MixingRule, sampling: Sampling, prompt: str, weight: float
) -> None:
    sources = [source(str(i), f, (STORY, OTHER)[i % 2]) for i, f in enumerate(families)]
    weights = np.array([weight, *[(1 - weight)] * (len(sources) - 1)])
    request = Request(max_new_tokens=24, sampling=sampling)
    by_name = {each.name: float(w) for each, w in zip(sources, weights, strict=True)}
    lazy = decoder(sources, rule, weights=by_name).generate(prompt, request)
    assert lazy.text == eager(sources, rule, weights, prompt, request)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=4)])
@pytest.mark.parametrize("rule", [Arithmetic(), Geometric()])
def test_both_routes_agree_where_every_token_is_a_byte(
    rule: MixingRule, sampling: Sampling
) -> None:
    sources = [source("a", "bytes"), source("b", "bytes", OTHER)]
    texts = [
        MixtureDecoder(sources, Mixture(rule, route=route)).generate("the ", Request(40)).text
        for route in ("tokens", "bytes")
    ]
    assert texts[0] == texts[1]
    assert texts[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["the ", "a dog, 12"])
def test_first_bytes_are_those_of_the_token_wise_mixture(family: str, prompt: str) -> None:
    """What two sources with one vocabulary say of tokens together, summed up by first bytes."""
    one = source("a", family)
    ids = [(*one.tokenizer.encode_prompt(OTHER), *one.tokenizer.end_ids)]
    two = Source("b", one.tokenizer, NgramBackend(ids, one.backend.vocab_size, order=3))
    weights, prefix = np.array([0.3, 0.7]), one.tokenizer.encode_prompt(prompt)
    rows = [s.backend.distributions([Query(prefix)])[0].log_probs[0] for s in (one, two)]
    vocabulary = Vocabulary(one.tokenizer, one.backend.vocab_size)
    tokens = np.array([vocabulary.outcomes(row, b"") for row in rows])
    by_token, summed = np.exp(mixed(Arithmetic(), tokens, weights)), np.zeros(257)
    for token in range(vocabulary.size):
        piece = vocabulary.piece(token)
        summed[END if token == vocabulary.end else (piece or b"\0")[0]] += by_token[token]
    covering = Covering(one.tokenizer, one.backend.vocab_size)
    bounds = [covering.bounds(covering.learn(covering.begin(), {(): row})).lower for row in rows]
    np.testing.assert_allclose(weights @ np.array(bounds), summed, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", [Arithmetic(), Geometric()])
def test_a_source_mixed_with_itself_is_that_source(family: str, rule: MixingRule) -> None:
    one = source("a", family)
    again = Source("b", one.tokenizer, one.backend)
    alone = decoder([one], rule).generate("the ", Request(24))
    both = decoder([one, again], rule).generate("the ", Request(24))
    assert alone.text == both.text
    assert alone.stop_reason == both.stop_reason


def test_a_source_without_weight_has_no_say_and_costs_nothing() -> None:
    sources = [source("a", "byte_bpe"), source("b", "unigram", OTHER)]
    alone = decoder(sources[:1]).generate("the ", Request(24))
    both = decoder(sources, weights={"a": 1.0, "b": 0.0}).generate("the ", Request(24))
    assert alone.text[: len(both.text)] == both.text
    assert both.stats.usage["b"].num_passes == 0


def test_order_of_sources_does_not_matter() -> None:
    sources = [source("a", "byte_bpe"), source("b", "unigram", OTHER)]
    for rule in (Arithmetic(), Geometric()):
        forwards = decoder(sources, rule).generate("the ", Request(24)).text
        assert decoder(sources[::-1], rule).generate("the ", Request(24)).text == forwards


@pytest.mark.parametrize("weight", [0.5, 0.9])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=3)])
def test_drafters_would_have_said_it_themselves(sampling: Sampling, weight: float) -> None:
    """Also where a step was decided before all was known of them."""
    sources = [source("a", "byte_bpe"), source("b", "unigram", OTHER)]
    mixture = decoder(sources, weights={"a": weight, "b": 1 - weight})
    generation = mixture.generate("the ", Request(24, sampling=sampling))
    own = {each.name: likeliest_bytes(each, "the ", generation.text) for each in sources}
    position = 0
    for step in generation.steps:
        data = step.segment.encode()
        for name in step.drafters:
            assert own[name][position : position + len(data)] == list(data)
        position += len(data)
    assert any("a" in step.drafters for step in generation.steps)


def likeliest_bytes(one: Source, prompt: str, text: str) -> list[int]:
    """What the source alone would have said, in place of every byte of ``text``."""
    covering = Covering(one.tokenizer, one.backend.vocab_size)
    prefix, cover, found = one.tokenizer.encode_prompt(prompt), covering.begin(), []
    for byte in text.encode():
        queries = [Query(prefix + ids) for ids in cover.unknown]
        answers = [each.log_probs[0] for each in one.backend.distributions(queries)]
        cover = covering.learn(cover, dict(zip(cover.unknown, answers, strict=True)))
        found.append(int(covering.bounds(cover).lower.argmax()))
        cover = covering.advance(cover, byte)
    return found


def test_batches_streams_and_steps_say_the_same() -> None:
    mixture = decoder([source("a", "byte_bpe"), source("b", "sentencepiece_bpe", OTHER)])
    prompts = ["the ", "a dog", "12 of", "caf"]
    alone = [mixture.generate(prompt, Request(20)) for prompt in prompts]
    together = mixture.generate_batch(prompts, Request(20))
    assert [each.text for each in together] == [each.text for each in alone]
    streamed = ["".join(step.text for step in mixture.stream(p, Request(20))) for p in prompts]
    assert streamed == [each.text for each in alone]
    state = mixture.start("the ", Request(20))
    state, _ = mixture.step(state)
    again = [mixture.step(state)[1].text for _ in range(3)]
    assert len(set(again)) == 1


def test_stop_strings_end_the_text_before_them() -> None:
    mixture = decoder([source("a", "byte_bpe"), source("b", "unigram")])
    whole = mixture.generate("the ", Request(30)).text
    stop = whole[8:11]
    stopped = mixture.generate("the ", Request(30, stop=(stop,)))
    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.stop_reason is StopReason.STOP_STRING


class Counting(NgramBackend):
    """Counts what it is asked, and fails from the call on that it is told to."""

    calls = 0
    fails_at = 10**9

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        type(self).calls += 1
        if self.calls >= self.fails_at:
            raise SourceError("the cable was pulled")
        return super().distributions(queries)


def counting(name: str, fails_at: int = 10**9) -> Source:
    plain = source(name, "byte_bpe")
    ids = [(*plain.tokenizer.encode_prompt(STORY), *plain.tokenizer.end_ids)] * 3
    kind = type("Counted", (Counting,), {"calls": 0, "fails_at": fails_at})
    return Source(name, plain.tokenizer, kind(ids, plain.backend.vocab_size, order=5))


def test_no_pass_for_bytes_that_need_none() -> None:
    counted = counting("a")
    generation = decoder([counted, source("b", "unigram")]).generate("the ", Request(40))
    num_tokens = len(counted.tokenizer.encode(generation.text))
    assert len(generation.text.encode()) > 2 * num_tokens
    assert type(counted.backend).calls <= 1.5 * num_tokens


def test_a_source_that_fails_is_done_without_and_named() -> None:
    sources = [counting("a", fails_at=4), source("b", "unigram")]
    generation = decoder(sources).generate("the ", Request(24))
    assert generation.text
    assert generation.stop_reason is not StopReason.SOURCES_FAILED
    assert "cable" in generation.warnings[0]
    request = Request(24, on_source_error="raise")
    with pytest.raises(SourceError, match="cable") as caught:
        decoder([counting("a", fails_at=4), sources[1]]).generate("the ", request)
    assert caught.value.generation is not None


def test_when_all_fail_the_text_so_far_is_kept() -> None:
    generation = decoder([counting("a", fails_at=4)]).generate("the ", Request(24))
    assert generation.stop_reason is StopReason.SOURCES_FAILED
    assert generation.text


def test_the_source_that_needs_fewest_tokens_has_all_that_it_may() -> None:
    sources = [source("a", "byte_bpe"), source("b", "bytes", OTHER)]
    for room in range(1, 8):
        generation = decoder(sources).generate("the ", Request(room))
        lengths = [len(each.tokenizer.encode(generation.text)) for each in sources]
        assert min(lengths) == room
        assert (generation.stop_reason is StopReason.LENGTH) == (room < 7)  # where both end


@given(
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
    st.lists(st.floats(0.0, 0.9), min_size=5, max_size=5),
    st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    st.integers(0, 50),
)
def test_what_is_decided_early_is_what_is_decided_late(
    masses: list[float], unknown: list[float], temperature: float, position: int
) -> None:
    """Whatever share of what is unknown each outcome turns out to have."""
    known, added = np.array(masses), np.array(unknown[: len(masses)])
    sampling = Sampling(temperature, seed=3)
    early = decide(np.log(known), np.log(known + added), sampling, position)
    for shares in (*np.eye(len(known)), np.zeros(len(known)), np.ones(len(known))):
        picked = pick(np.log(known + shares * added), sampling, position)
        assert early in (None, picked)
    nothing_unknown = decide(np.log(known), np.log(known), sampling, position)
    assert nothing_unknown in (None, pick(np.log(known), sampling, position))


def test_when_an_outcome_is_decided() -> None:
    lower, upper = np.log([0.5, 0.3, 0.1]), np.log([0.6, 0.4, 0.2])
    assert decide(lower, upper, Sampling(), 0) == 0
    assert decide(lower, np.log([0.6, 0.55, 0.2]), Sampling(), 0) is None
    tied = np.log([0.4, 0.4, 0.2])
    assert decide(tied, tied, Sampling(), 0) is None
    assert decide(lower, lower, Sampling(1.0, top_k=2), 0) is None  # a filter needs all of them
    assert decide(lower, lower, Sampling(1.0, top_p=0.9), 0) is None
    warm = [decide(lower, lower, Sampling(3.0, seed=1), position) for position in range(40)]
    assert warm == [pick(lower, Sampling(3.0, seed=1), position) for position in range(40)]
    assert set(warm) == {0, 1, 2}


def test_what_is_unknown_may_turn_a_sample() -> None:
    """At a high temperature even little of it; wherever it would, nothing is decided."""
    lower, upper = np.log([0.5, 0.1]), np.log([0.5, 0.6])
    num_turned = 0
    for position in range(100):
        sampling = Sampling(4.0, seed=1)
        both = {pick(each, sampling, position) for each in (lower, upper)}
        decided = decide(lower, upper, sampling, position)
        assert decided == (None if len(both) > 1 else both.pop())
        num_turned += decided is None
    assert 5 < num_turned < 50
