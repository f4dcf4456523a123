"""Identities of the whole loop, on exact n-gram sources of every tokenizer family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coolfusion import Generation, Request, Sampling, SegmentDecoder, Source, Step, StopReason
from coolfusion.backends.base import Query, Scores
from coolfusion.decoding.request import STRETCH
from coolfusion.decoding.segments.recipe import PRESETS
from coolfusion.errors import NonFiniteError, SourceError
from coolfusion.testing import toy_source
from coolfusion.tokenization.base import Tokenizer, pieces_text
from tests.strategies import FAMILIES, STORIES, said

PROMPTS = ("Tom has", "The cat", "Ann", "Now", "\u65e5\u672c")


@lru_cache(maxsize=256)
def toy(name: str, family: str, share: tuple[int, ...], order: int = 4) -> Source:
    return toy_source(name, [STORIES[i] for i in share], family=family, order=order, vocab_size=300)


@st.composite
def source_lists(draw: st.DrawFn, min_size: int = 1) -> list[Source]:
    families = draw(st.lists(st.sampled_from(FAMILIES), min_size=min_size, max_size=3, unique=True))
    shares = st.sampled_from([(0, 1), (1, 2), (2, 3, 4), (0, 3), (0, 1, 2, 3, 4)])
    return [toy(family, family, draw(shares)) for family in families]


prompts = st.sampled_from(PROMPTS)
samplings = st.sampled_from([Sampling(), Sampling(0.8, 0, 0.95, 1), Sampling(1.2, 20, 1.0, 2)])


def run(sources: list[Source], prompt: str, preset: str = "default", **limits) -> Generation:
    request = Request(**{"max_new_tokens": 30, **limits})
    return SegmentDecoder(sources, PRESETS[preset]).generate(prompt, request)


@given(source_lists(), prompts, samplings, st.sampled_from(sorted(PRESETS)), st.integers(1, 60))
def test_invariants(
    sources: list[Source], prompt: str, sampling: Sampling, preset: str, limit: int
) -> None:
    decoder = SegmentDecoder(sources, PRESETS[preset])
    state = decoder.start(prompt, Request(max_new_tokens=limit, sampling=sampling))
    steps: list[Step] = []
    while state.stop_reason is None:
        before = state
        state, step = decoder.step(state)
        steps.append(step)
        assert state.text == before.text + step.segment
        assert step.segment or state.stop_reason is not None
        assert min(before.num_tokens) < limit
        assert (min(state.num_tokens) >= limit) == (state.stop_reason is StopReason.LENGTH)
        for source, encoded in zip(sources, state.encoded, strict=True):
            assert encoded.ids == source.tokenizer.encode(state.text)
        assert step.index == len(steps) - 1
        assert decoder.step(before)[1].segment == step.segment
    result = decoder.finish(state, steps)
    assert result.text == state.text == "".join(step.text for step in steps)
    assert "\ufffd" not in result.text
    assert result.stop_reason in (StopReason.END, StopReason.LENGTH, StopReason.NO_DRAFT)
    assert (result.stop_reason is StopReason.END) == steps[-1].ends


@given(st.sampled_from(FAMILIES), prompts, st.integers(2, 4), st.sampled_from(sorted(PRESETS)))
def test_a_source_fused_with_itself_is_that_source(
    family: str, prompt: str, times: int, preset: str
) -> None:
    source = toy("one", family, (0, 1, 2, 3, 4))
    alone = run([source], prompt, preset)
    copies = [replace(source, name=f"copy {k}") for k in range(times)]
    together = run(copies, prompt, preset)
    assert (together.text, together.stop_reason) == (alone.text, alone.stop_reason)
    assert together.stats.num_contested == 0


@given(st.sampled_from(FAMILIES), prompts, st.integers(1, 60))
def test_one_source_is_its_own_greedy_text(family: str, prompt: str, limit: int) -> None:
    source = toy("one", family, (0, 1, 2, 3, 4))
    prefix = source.tokenizer.encode_prompt(prompt)
    drafted: tuple[int, ...] = ()
    ended = False
    while len(drafted) < limit and not ended:
        picked = source.backend.draft([Query(prefix + drafted)], 1)[0].picks[0]
        ended = picked in source.tokenizer.end_ids
        drafted += () if ended else (picked,)
    text = pieces_text(source.tokenizer, drafted)
    assume(source.tokenizer.encode(text) == drafted)
    result = run([source], prompt, max_new_tokens=limit)
    assert result.text == text
    if not ended:
        assert result.stop_reason is StopReason.LENGTH
        assert len(source.tokenizer.encode(result.text)) == limit


@pytest.mark.parametrize("first", FAMILIES)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_sources_that_agree_change_nothing(first: str, preset: str) -> None:
    text = "Once a quick brown fox jumped over 13 lazy dogs.\n\nThen it slept."
    sources = [toy_source(family, [text], family=family, order=14) for family in FAMILIES]
    sources.sort(key=lambda source: source.name != first)
    prompt = "Once a quick"
    alone = run(sources[:1], prompt, preset, max_new_tokens=100)
    assert alone.text == text.removeprefix(prompt)
    for count in range(2, len(sources) + 1):
        fused = run(sources[:count], prompt, preset, max_new_tokens=100)
        assert (fused.text, fused.stop_reason) == (alone.text, StopReason.END)
        assert fused.stats.num_contested == 0


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_response_is_shorter_than_a_source_alone_gives(preset: str) -> None:
    """By sources of one opinion and different tokenizers, and not much longer either."""
    text = "Once a quick brown fox \u65e5\u672c jumped over 13 lazy dogs."
    sources = [toy_source(family, [text], family=family, order=14) for family in FAMILIES]
    for limit in (*range(1, 12), 20, 100):
        fused = run(sources, "Once a quick", preset, max_new_tokens=limit)
        alone = [run([each], "Once a quick", preset, max_new_tokens=limit).text for each in sources]
        assert fused.text == max(alone, key=len)


class Blind:
    """A tokenizer that reads prompts and writes text, and loses every text in between."""

    def __init__(self, inner: Tokenizer) -> None:
        self.end_ids, self.piece, self.encode_prompt = (
            inner.end_ids,
            inner.piece,
            inner.encode_prompt,
        )

    def encode(self, text: str) -> tuple[int, ...]:
        return ()


def test_a_tokenizer_that_counts_nothing_keeps_no_response_going() -> None:
    source = toy_source("writer", ["a" * 600], family="bytes")
    blind = replace(source, name="blind", tokenizer=Blind(source.tokenizer))
    result = run([source, blind], "aaa", max_new_tokens=1, max_segment_tokens=8)
    assert result.stop_reason is StopReason.LENGTH
    assert STRETCH <= len(result.text) < STRETCH + 8


@settings(max_examples=12)
@given(source_lists(), samplings, st.integers(1, 5))
def test_a_batch_is_its_rows(sources: list[Source], sampling: Sampling, max_rows: int) -> None:
    decoder, request = SegmentDecoder(sources), Request(max_new_tokens=24, sampling=sampling)
    together = decoder.generate_batch(PROMPTS, request, max_rows=max_rows)
    for prompt, result in zip(PROMPTS, together, strict=True):
        alone = decoder.generate(prompt, request)
        assert (result.text, result.stop_reason) == (alone.text, alone.stop_reason)
        assert said(result.steps) == said(alone.steps)


@given(source_lists(min_size=2), prompts, st.randoms())
def test_the_order_of_sources_only_breaks_ties(sources: list[Source], prompt: str, noise) -> None:
    result = run(sources, prompt)
    for step in result.steps:
        costs = sorted(c.cost for c in step.candidates if c.cost is not None)
        assume(all(right - left > 1e-6 for left, right in pairwise(costs)))
    shuffled = noise.sample(sources, len(sources))
    permuted = run(shuffled, prompt)
    assert (permuted.text, permuted.stop_reason) == (result.text, result.stop_reason)
    for one, other in zip(result.steps, permuted.steps, strict=True):
        mine = {c.text: c.cost and round(c.cost, 6) for c in one.candidates}
        assert mine == {c.text: c.cost and round(c.cost, 6) for c in other.candidates}


@given(
    source_lists(), prompts, st.lists(st.sampled_from(["a", " ", ".\n", "Tom", "n A"]), max_size=2)
)
def test_stop_strings(sources: list[Source], prompt: str, stop: list[str]) -> None:
    free = run(sources, prompt)
    stopped = run(sources, prompt, stop=tuple(stop))
    assert not any(string in stopped.text for string in stop)
    assert free.text.startswith(stopped.text)
    if any(string in free.text for string in stop):
        assert stopped.stop_reason is StopReason.STOP_STRING
        assert free.text.startswith(stopped.text + (stopped.stop_string or "?"))
    else:
        assert (stopped.text, stopped.stop_reason) == (free.text, free.stop_reason)


@settings(max_examples=20)
@given(source_lists(), prompts, st.integers(0, 5))
def test_seeds_are_reproducible(sources: list[Source], prompt: str, seed: int) -> None:
    sampling = Sampling(1.0, 0, 1.0, seed)
    first = run(sources, prompt, sampling=sampling)
    again = run(sources, prompt, sampling=sampling)
    assert said(first.steps) == said(again.steps)


def test_seeds_matter() -> None:
    sources = [toy("one", "byte_bpe", (0, 1, 2, 3, 4), 2)]
    texts = {run(sources, "Tom", sampling=Sampling(1.5, seed=seed)).text for seed in range(8)}
    assert len(texts) > 1


class Failing:
    """A backend that fails after a number of calls."""

    def __init__(self, source: Source, after: int, error: Exception) -> None:
        self.inner, self.left, self.error = source.backend, after, error
        self.vocab_size = source.backend.vocab_size
        self.context_length = source.backend.context_length

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        return self._spend(self.inner.score(queries))

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        return self._spend(self.inner.draft(queries, num_tokens))

    def _spend(self, answers: list[Scores]) -> list[Scores]:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return answers


ERRORS: list[Callable[[], Exception]] = [
    lambda: NonFiniteError("The model returned NaN."),
    lambda: RuntimeError("out of memory"),
]


@given(source_lists(min_size=2), prompts, st.integers(0, 40), st.sampled_from(ERRORS))
def test_a_failing_source_is_dropped(
    sources: list[Source], prompt: str, after: int, error: Callable[[], Exception]
) -> None:
    broken = Failing(sources[0], after, error())
    result = run([replace(sources[0], backend=broken), *sources[1:]], prompt)
    dropped = [step.index for step in result.steps if step.dropped]
    intact = run(sources, prompt)
    if not dropped:
        assert result.text == intact.text
        return
    (index,) = dropped
    assert str(error()) in result.warnings[0]
    assert said(result.steps[:index]) == said(intact.steps[:index])
    assert all(sources[0].name not in step.sources for step in result.steps[index + 1 :])
    assert result.stop_reason is not StopReason.SOURCES_FAILED
    assert result.text == "".join(step.segment for step in result.steps)


@given(prompts, st.integers(0, 20))
def test_all_sources_failing_ends_the_response(prompt: str, after: int) -> None:
    source = toy("one", "byte_bpe", (0, 1, 2, 3, 4))
    broken = replace(source, backend=Failing(source, after, RuntimeError("gone")))
    result, whole = run([broken], prompt), run([source], prompt)
    assert whole.text.startswith(result.text)
    assert (result.stop_reason is StopReason.SOURCES_FAILED) == any(s.dropped for s in result.steps)


@given(source_lists(min_size=2), prompts, st.integers(1, 30))
def test_a_source_without_room_leaves_the_others_to_finish(
    sources: list[Source], prompt: str, room: int
) -> None:
    first = sources[0]
    narrow = toy_source(
        "narrow", STORIES, family="bytes", context_length=len(prompt.encode()) + room
    )
    result = run([narrow, first], prompt, max_new_tokens=80)
    dropped = [gone for step in result.steps for gone in step.dropped]
    assert {gone.source for gone in dropped} <= {"narrow"}
    assert not result.stop_sources
    assert result.stop_reason is not StopReason.CONTEXT_LENGTH
    if dropped:
        assert "context window" in dropped[0].reason
    else:
        assert len(narrow.tokenizer.encode(result.text)) <= room


@given(source_lists(), prompts, st.integers(0, 10))
def test_failures_are_raised_where_asked(sources: list[Source], prompt: str, after: int) -> None:
    broken = Failing(sources[0], after, RuntimeError("out of memory"))
    decoder = SegmentDecoder([replace(sources[0], backend=broken), *sources[1:]])
    state = decoder.start(prompt, Request(max_new_tokens=30, on_source_error="raise"))
    whole = run(sources, prompt)
    failure = None
    while state.stop_reason is None and failure is None:
        try:
            state, _ = decoder.step(state)
        except SourceError as error:
            failure = error
    assert whole.text.startswith(state.text)
    assert (failure is not None) == (broken.left < 0)
    if failure is None:
        assert state.text == whole.text
    else:
        assert "out of memory" in str(failure)
        assert failure.generation.text == state.text
