"""A row that fails ends alone: every other row of a batch ends with the text it has alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import Request, SegmentDecoder, Source
from coolfusion.backends.base import Query, Scores
from coolfusion.decoding.answers.rerank import rerank_answers
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import make_mixture
from coolfusion.decoding.scheduler import ModelRequest, Scheduler, ask, gather
from coolfusion.decoding.segments.beam import BeamSearch
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.rerankers import ScoreTable, mean_nll
from coolfusion.errors import BatchError, PromptError, SourceError
from coolfusion.testing import toy_source
from coolfusion.types import Generation, StopReason
from tests.liars import Wrapped
from tests.strategies import STORIES, said

PROMPTS = ("Tom has", "Ann has", "The cat", "He eats")
SCORES = Scores((), (1,), (-1.0,), (-1.0,))
RAISE = Request(max_new_tokens=16, on_source_error="raise")


class Choosy(Wrapped):
    """Fails for texts that go on beyond given lengths in ids: prefix of ids -> length."""

    def __init__(self, source: Source, limits: dict[tuple[int, ...], int]) -> None:
        super().__init__(source)
        self.limits = limits

    def score(self, queries: Sequence[Query]) -> Any:
        self.check(queries)
        return super().score(queries)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> Any:
        self.check(queries)
        return super().draft(queries, num_tokens)

    def distributions(self, queries: Sequence[Query]) -> Any:
        self.check(queries)
        return super().distributions(queries)

    def check(self, queries: Sequence[Query]) -> None:
        for query in queries:
            ids = query.prefix + query.continuation
            for start, limit in self.limits.items():
                if ids[: len(start)] == start and len(ids) >= len(start) + limit:
                    raise RuntimeError(f"out of memory after {len(start)} ids")


def choosy(source: Source, limits: dict[str, int]) -> Source:
    ids = {source.tokenizer.encode_prompt(prompt): limit for prompt, limit in limits.items()}
    return replace(source, backend=Choosy(source, ids))


def sources_with(limits: dict[str, int]) -> list[Source]:
    first = toy_source("first", STORIES[:3])
    return [choosy(first, limits), toy_source("second", STORIES[1:], family="sentencepiece_bpe")]


def decoder_named(kind: str, limits: dict[str, int]) -> Any:
    sources = sources_with(limits)
    if kind == "mixture":
        return MixtureDecoder(sources, make_mixture("geometric"))
    speculation = {} if kind == "guessing" else {"speculation": None}
    return SegmentDecoder(sources, **speculation)


limits = st.dictionaries(st.sampled_from(PROMPTS), st.integers(0, 12), max_size=len(PROMPTS))
kinds = st.sampled_from(["plain", "guessing", "mixture"])


def alone(decoder: Any, prompt: str) -> Generation | SourceError:
    try:
        return decoder.generate(prompt, RAISE)
    except SourceError as error:
        return error


@settings(max_examples=7)
@given(limits, kinds, st.integers(1, 6))
def test_a_batch_delivers_all_that_does_not_fail(
    limits: dict[str, int], kind: str, rows: int
) -> None:
    wanted = {n: alone(decoder_named(kind, limits), each) for n, each in enumerate(PROMPTS)}
    good = {n: each for n, each in wanted.items() if isinstance(each, Generation)}
    streamed: dict[int, Generation] = {}
    errors: dict[int, Exception] = {}
    try:
        for n, each in decoder_named(kind, limits).generate_each(PROMPTS, RAISE, max_rows=rows):
            streamed[n] = each
    except BatchError as error:
        errors, given_already = error.errors, error.results
        assert given_already == {}
    assert {n: each.text for n, each in streamed.items()} == {n: g.text for n, g in good.items()}
    assert errors.keys() == wanted.keys() - good.keys()
    for n, error in errors.items():
        assert isinstance(error, SourceError)
        assert str(error) == str(wanted[n])
        assert str(error).startswith('Source "first": ')
        assert error.generation.text == wanted[n].generation.text
        assert said(error.generation.steps) == said(wanted[n].generation.steps)
        assert error.generation.stop_reason is StopReason.INTERRUPTED


@settings(max_examples=4)
@given(limits)
def test_a_list_of_responses_is_not_lost_with_one_of_them(limits: dict[str, int]) -> None:
    decoder = decoder_named("plain", limits)
    failed = None
    try:
        results = dict(enumerate(decoder.generate_batch(PROMPTS, RAISE)))
    except BatchError as error:
        results, failed = error.results, error
    if failed is not None:
        assert results.keys() | failed.errors.keys() == set(range(len(PROMPTS)))
        assert failed.__cause__ is failed.errors[min(failed.errors)]
    for n, generation in results.items():
        assert said(generation.steps) == said(decoder.generate(PROMPTS[n], RAISE).steps)


@settings(max_examples=4)
@given(limits, kinds)
def test_dropping_a_source_in_one_row_changes_no_other(limits: dict[str, int], kind: str) -> None:
    request = replace(RAISE, on_source_error="drop")
    batch = decoder_named(kind, limits).generate_batch(PROMPTS, request)
    for prompt, generation in zip(PROMPTS, batch, strict=True):
        single = decoder_named(kind, limits).generate(prompt, request)
        assert (said(generation.steps), generation.warnings) == (
            said(single.steps),
            single.warnings,
        )
        if prompt not in limits:
            assert not generation.warnings


@settings(max_examples=3)
@given(limits)
def test_steps_beams_and_answers_fail_row_by_row(limits: dict[str, int]) -> None:
    decoder = decoder_named("plain", limits)
    states = [decoder.start(prompt, RAISE) for prompt in PROMPTS]
    single = []
    for state in states:
        try:
            single.append(decoder.step(state)[1].segment)
        except SourceError:
            single.append(None)
    try:
        stepped = dict(enumerate(decoder.step_batch(states)))
    except BatchError as error:
        stepped = error.results
    assert {n: step.segment for n, (_, step) in stepped.items()} == {
        n: segment for n, segment in enumerate(single) if segment is not None
    }
    fine = [prompt for prompt in PROMPTS if prompt not in limits]
    free = decoder_named("plain", {})
    for prompt in fine[:1]:
        best, wanted = (BeamSearch(each, 2).generate(prompt, RAISE) for each in (decoder, free))
        assert [each.generation.text for each in best] == [e.generation.text for e in wanted]
    drop = replace(RAISE, on_source_error="drop")
    ranked, wanted = (rerank_answers(each, PROMPTS, drop) for each in (decoder, free))
    for prompt, one, other in zip(PROMPTS, ranked, wanted, strict=True):
        if prompt not in limits:
            assert (one.text, one.winner) == (other.text, other.winner)


def test_four_responses_of_which_the_first_raises() -> None:
    """At the scheduler: what one raises is its result, whatever it is, and three others end."""

    class Answering:
        def answer(self, requests: Sequence[ModelRequest]) -> list[Any]:
            error = SourceError("gone")
            return [error if each.query.prefix == (0,) else SCORES for each in requests]

    async def conversation(first: int, fault: Exception | None) -> int:
        for number in range(3):
            await gather([ask([ModelRequest(0, Query((first, number)))])])
            await ask([ModelRequest(0, Query((first,)))])
            if fault is not None:
                raise fault
        return first

    for fault in (None, ValueError("a fault")):
        scheduler: Scheduler[int, int] = Scheduler([Answering()])
        for first in range(4):
            scheduler.start(first, conversation(first, fault if first == 0 else None))
        ended: dict[int, Any] = {}
        while len(ended) < 4:
            ended.update((each.key, each.result) for each in scheduler.next_finished())
        assert isinstance(ended.pop(0), SourceError)
        assert ended == {1: 1, 2: 2, 3: 3}


def test_a_fault_within_a_gather_ends_the_whole_coroutine_and_no_other() -> None:
    class Answering:
        def answer(self, requests: Sequence[ModelRequest]) -> list[Any]:
            return [SCORES for _ in requests]

    async def part(number: int) -> int:
        await ask([ModelRequest(0, Query((number,)))])
        if number == 1:
            raise ZeroDivisionError("a fault")
        await ask([ModelRequest(1, Query((number,)))])
        return number

    async def all_parts(numbers: list[int]) -> list[Any]:
        return await gather([part(number) for number in numbers])

    scheduler: Scheduler[str, list[Any]] = Scheduler([Answering(), Answering()])
    scheduler.start("broken", all_parts([0, 1, 2]))
    scheduler.start("sound", all_parts([3, 4]))
    ended: dict[str, Any] = {}
    while len(ended) < 2:
        ended.update((each.key, each.result) for each in scheduler.next_finished())
    assert isinstance(ended["broken"], ZeroDivisionError)
    assert ended["sound"] == [3, 4]
    assert scheduler.next_finished() == []


def test_a_reranker_with_a_fault_loses_no_other_row() -> None:
    """Its error is raised as it is, after the others."""

    def fussy(table: ScoreTable) -> Any:
        if table.num_bytes[0] == 4:
            raise LookupError("four bytes")
        return mean_nll(table)

    sources = sources_with({})
    whole = SegmentDecoder(sources).generate_batch(PROMPTS, RAISE)
    seen: dict[int, str] = {}
    decoder = SegmentDecoder(sources, Recipe(reranker=fussy))
    with pytest.raises(LookupError, match="four bytes"):
        seen.update((n, each.text) for n, each in decoder.generate_each(PROMPTS, RAISE))
    assert 0 < len(seen) < len(PROMPTS)
    assert all(whole[n].text == text for n, text in seen.items())


def test_a_prompt_that_cannot_be_taken_loses_no_row_before_it() -> None:
    decoder = decoder_named("plain", {})
    seen: list[int] = []
    with pytest.raises(PromptError, match="empty"):
        seen.extend(n for n, _ in decoder.generate_each(("Tom", "", "Ann"), RAISE, max_rows=1))
    assert seen == [0, 2]
    with pytest.raises(PromptError, match="empty"):
        decoder.generate_batch(["Tom", ""], RAISE)


class Particular(SourceError):
    """An error of a user's own that is not made of a message."""

    def __init__(self, code: int, *, place: str) -> None:
        super().__init__(f"code {code} at {place}")


def test_errors_of_any_make_are_raised_with_their_source() -> None:
    class Failing(Wrapped):
        def draft(self, queries: Sequence[Query], num_tokens: int) -> Any:
            raise Particular(7, place="home")

    first = sources_with({})[0]
    broken = replace(first, backend=Failing(first))
    for decoder in (SegmentDecoder([broken]), SegmentDecoder([broken], speculation=None)):
        with pytest.raises(SourceError, match='Source "first": code 7 at home') as caught:
            decoder.generate("Tom", RAISE)
        assert isinstance(caught.value.__cause__, Particular)
