"""Coroutines side by side give the results that each would give alone, and share their calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion import Request, SegmentDecoder, Source, UsageError
from coolfusion.backends.base import Query, Scores
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.batching import BatchLimits
from coolfusion.decoding.scheduler import (
    ModelRequest,
    Scheduler,
    ask,
    gather,
    run,
)
from coolfusion.errors import SourceError
from tests.decoding.segments.test_decoder import PROMPTS, source_lists, toy
from tests.strategies import said


class Noting:
    """A backend that notes how many queries came in each call."""

    def __init__(self, source: Source) -> None:
        self.inner, self.sizes = source.backend, []
        self.vocab_size, self.context_length = self.inner.vocab_size, self.inner.context_length

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        self.sizes.append(len(queries))
        if any(query.prefix == (9,) for query in queries):
            raise ValueError("nine is not liked")
        return self.inner.score(queries)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        self.sizes.append(len(queries))
        return self.inner.draft(queries, num_tokens)


async def picks(source: int, first: int, num: int) -> list[int]:
    """``num`` requests one after another."""
    ids = (first,)
    for _ in range(num):
        (scores,) = await ask([ModelRequest(source, Query(ids))])
        ids += scores.picks
    return list(ids)


async def nested(source: int, firsts: list[int], num: int) -> list[list[int] | SourceError]:
    return await gather([picks(source, first, num) for first in firsts])


def caches() -> list[AnswerCache]:
    names = ("byte_bpe", "characters")
    return [AnswerCache(toy(name, name, (0, 1, 2, 3, 4)).backend) for name in names]


tasks = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 8), st.integers(0, 5)), min_size=1, max_size=6
)


@given(tasks, st.booleans())
def test_side_by_side_is_one_by_one(talks: list[tuple[int, int, int]], concurrent: bool) -> None:
    scheduler: Scheduler[int, list[int]] = Scheduler(caches(), concurrent=concurrent)
    for key, talk in enumerate(talks):
        scheduler.start(key, picks(*talk))
    found: dict[int, list[int]] = {}
    while len(found) < len(talks):
        found.update((each.key, each.result) for each in scheduler.next_finished())
    assert found == {key: run(picks(*talk), caches()) for key, talk in enumerate(talks)}


@given(st.lists(st.integers(1, 8), max_size=5), st.integers(0, 4))
def test_a_gather_joins_in_order(firsts: list[int], num: int) -> None:
    assert run(nested(0, firsts, num), caches()) == [
        run(picks(0, first, num), caches()) for first in firsts
    ]


def test_one_that_fails_fails_alone() -> None:
    noting = Noting(toy("one", "byte_bpe", (0, 1, 2, 3, 4)))
    found = run(nested(0, [1, 9, 2], 3), [AnswerCache(noting)])
    assert isinstance(found[1], SourceError)
    assert "nine is not liked" in str(found[1])
    assert found[0] == run(picks(0, 1, 3), [AnswerCache(noting.inner)])


class Confused(Noting):
    """Answers with the wrong number of answers, or with answers of the wrong type."""

    def __init__(self, source: Source, answers: list[object]) -> None:
        super().__init__(source)
        self.answers = answers

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        return self.answers


@pytest.mark.parametrize("answers", [[], [None], [Scores((), (1,), (-1.0,), (-1.0,))] * 2])
def test_a_wrong_number_or_type_of_answers_is_an_error(answers: list[object]) -> None:
    confused = Confused(toy("one", "byte_bpe", (0, 1, 2, 3, 4)), answers)
    with pytest.raises(SourceError):
        run(picks(0, 1, 1), [AnswerCache(confused)])


class Scripted:
    """Gives the same answer to every request."""

    def answer(self, requests: Sequence[ModelRequest]) -> list[object]:
        return ["no scores at all" for _ in requests]


def test_an_answer_of_the_wrong_type_is_never_dropped() -> None:
    with pytest.raises(SourceError, match="answered with str where Scores"):
        run(picks(0, 1, 1), [Scripted()])


def test_tasks_that_never_started_are_closed() -> None:
    async def broken() -> list[int]:
        raise RuntimeError("a fault of the program")

    async def outer() -> object:
        return await gather([broken(), picks(0, 1, 1)])

    with pytest.raises(RuntimeError, match="a fault of the program"):
        run(outer(), caches())


def test_the_source_with_most_requests_is_asked_first() -> None:
    """Two wait for source 1 and one for source 0: the fuller call comes first."""
    asked: list[int] = []

    class Numbered:
        def __init__(self, number: int) -> None:
            self.number = number

        def answer(self, requests: Sequence[ModelRequest]) -> list[Scores]:
            asked.append(self.number)
            return [Scores((), (1,), (-1.0,), (-1.0,)) for _ in requests]

    async def all_three() -> object:
        return await gather([picks(0, 1, 1), picks(1, 1, 1), picks(1, 2, 1)])

    run(all_three(), [Numbered(0), Numbered(1)])
    assert asked == [1, 0]


def test_what_waits_together_is_asked_together() -> None:
    noting = Noting(toy("one", "byte_bpe", (0, 1, 2, 3, 4)))
    run(nested(0, [1, 2, 3, 4], 3), [AnswerCache(noting)])
    assert noting.sizes == [4, 4, 4]


@given(source_lists(min_size=2), st.integers(1, 4))
def test_the_token_budget_bounds_what_is_decoded_together(sources: list[Source], fit: int) -> None:
    noting = [Noting(source) for source in sources]
    heard = [replace(s, backend=n) for s, n in zip(sources, noting, strict=True)]
    request = Request(max_new_tokens=12)
    width = 12 + max(len(s.tokenizer.encode_prompt(p)) for s in sources for p in PROMPTS)
    decoder = SegmentDecoder(heard, speculation=None)
    batch = decoder.generate_batch(PROMPTS, request, max_tokens=fit * width)
    alone = [decoder.generate(prompt, request) for prompt in PROMPTS]
    assert [said(g.steps) for g in batch] == [said(g.steps) for g in alone]
    # A row asks for its drafts one at a time, for its candidates and what they replace at once.
    assert max(max(n.sizes) for n in noting) <= fit * 2 * (len(sources) + 1)


def test_sources_on_their_own_devices_answer_at_the_same_time() -> None:
    threads: set[str] = set()

    class Placed(Noting):
        def score(self, queries: Sequence[Query]) -> list[Scores]:
            threads.add(threading.current_thread().name)
            return super().score(queries)

        def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
            threads.add(threading.current_thread().name)
            return super().draft(queries, num_tokens)

    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    placed = [replace(source, backend=Placed(source)) for source in sources]
    for number, source in enumerate(placed):
        source.backend.device = f"cuda:{number}"
    one, other = (SegmentDecoder(some).generate("Tom has", Request()) for some in (placed, sources))
    assert said(one.steps) == said(other.steps)
    assert any(name.startswith("ThreadPool") for name in threads)


def test_a_tiny_budget_still_decodes_one_by_one() -> None:
    noting = Noting(toy("one", "characters", (0, 1, 2, 3, 4)))
    source = replace(toy("one", "characters", (0, 1, 2, 3, 4)), backend=noting)
    SegmentDecoder([source]).generate_batch(PROMPTS, Request(max_new_tokens=8), max_tokens=1)
    assert max(noting.sizes) == 1


@given(source_lists(), st.integers(1, 4))
def test_every_prompt_may_have_a_request_of_its_own(sources: list[Source], rows: int) -> None:
    requests = [Request(max_new_tokens=3 + 5 * number) for number in range(len(PROMPTS))]
    decoder = SegmentDecoder(sources)
    batch = decoder.generate_batch(PROMPTS, requests, max_rows=rows)
    alone = [decoder.generate(p, request) for p, request in zip(PROMPTS, requests, strict=True)]
    assert [said(g.steps) for g in batch] == [said(g.steps) for g in alone]
    with pytest.raises(ValueError, match="shorter"):
        decoder.generate_batch(PROMPTS, requests[:-1])


@pytest.mark.parametrize("limits", [{"max_rows": 0}, {"max_tokens": -1}])
def test_impossible_limits_are_named(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(limits))):
        BatchLimits(**limits)
