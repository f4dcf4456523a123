"""Remembered answers are those the backend would give, and none is asked for twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.sampling import Sampling, pick
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.facts import REACH
from coolfusion.decoding.pace import Pace
from coolfusion.decoding.scheduler import ModelRequest
from coolfusion.types import Floats

VOCAB = 5
ANSWERS = ("log_probs", "picks", "pick_log_probs", "watched")
LONG = tuple(i * i % VOCAB for i in range(3 * REACH))


class Hashing:
    """A backend to which texts that differ anywhere are nothing alike."""

    vocab_size, context_length = VOCAB, None

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        return [self._score(query) for query in queries]

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        drafts = []
        for query in queries:
            ids: tuple[int, ...] = ()
            for _ in range(num_tokens + 1):
                whole = self._score(replace(query, continuation=ids))
                ids = whole.picks[:1] if not ids else (*ids, whole.picks[-1])
            drafts.append(replace(whole, **{n: getattr(whole, n)[:num_tokens] for n in ANSWERS}))
        return drafts

    def _score(self, query: Query) -> Scores:
        ids, first = query.prefix + query.continuation, len(query.prefix)
        rows = [self._row(ids[:end]) for end in range(first, len(ids) + 1)]
        picks = [pick(row, query.sampling, first + i) for i, row in enumerate(rows)]
        watched = [np.logaddexp.reduce(row[list(query.watch)]) for row in rows]
        return Scores(
            tuple(float(row[t]) for row, t in zip(rows, query.continuation, strict=False)),
            tuple(picks),
            tuple(float(row[t]) for row, t in zip(rows, picks, strict=True)),
            tuple(float(total) for total in watched),
        )

    def _row(self, ids: tuple[int, ...]) -> Floats:
        row = np.random.default_rng(ids).normal(size=VOCAB)
        return row - np.logaddexp.reduce(row)


BACKEND = Hashing()


class Counting:
    """Answers, and notes what it was asked."""

    vocab_size, context_length = VOCAB, None

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        self.asked += queries
        return BACKEND.score(queries)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        self.asked += queries
        return BACKEND.draft(queries, num_tokens)


def assert_same(cache: AnswerCache, query: Query, *, is_draft: bool = False) -> None:
    (found,) = cache.answer([ModelRequest(0, query, is_draft=is_draft)])
    assert isinstance(found, Scores)
    num = len(found.picks)
    if is_draft:
        assert num >= 1
        (wanted,) = BACKEND.draft([query], num)
    else:
        assert num == len(query.continuation) + 1
        (wanted,) = BACKEND.score([query])
    for name in ANSWERS:
        assert getattr(found, name) == pytest.approx(getattr(wanted, name)[:num]), name


ids = st.lists(st.integers(0, VOCAB - 1), max_size=4).map(tuple)
queries = st.builds(
    lambda start, length, more, after, watch, seed: Query(
        (start, *LONG[:length], *more),
        after,
        watch,
        Sampling(0.0 if seed is None else 1.0, seed=seed or 0),
        1,
    ),
    st.integers(0, 1),
    st.sampled_from([0, 1, 2, REACH, 2 * REACH, 2 * REACH + 1, 3 * REACH]),
    ids,
    ids,
    st.sampled_from([(), (1,), (2, 4)]),
    st.sampled_from([None, 1]),
)


@given(st.lists(st.tuples(queries, st.booleans()), min_size=2, max_size=12))
def test_answers_are_those_of_the_backend(asked: list[tuple[Query, bool]]) -> None:
    """However a sequence's text grows, is rewound or branches, and from however far."""
    cache = AnswerCache(Counting())
    for query, is_draft in asked:
        continuation = () if is_draft else query.continuation
        assert_same(cache, replace(query, continuation=continuation), is_draft=is_draft)


@given(ids.filter(bool), ids.filter(bool), st.sampled_from([1, 2 * REACH + 3]))
@example((1, 2), (3, 4), 1)
def test_a_text_of_equal_length_is_another_text(
    one: tuple[int, ...], other: tuple[int, ...], length: int
) -> None:
    cache = AnswerCache(Counting())
    for end in (one, other, one + other, other + one):
        assert_same(cache, Query((*LONG[:length], *end), (1, 2), (3,), sequence_id=1))
    # Now the texts differ in a beginning that was left behind.
    for start in (one, other, one[::-1]):
        for end in (LONG[:length], LONG[: length + 1]):
            assert_same(cache, Query((*start, *end), (1, 2), (3,), sequence_id=1))


def test_what_is_known_is_not_asked_again() -> None:
    backend = Counting()
    cache = AnswerCache(backend)
    assert_same(cache, Query((0, 1), (2, 3), (4,), sequence_id=1))
    assert len(backend.asked) == 1
    assert_same(cache, Query((0, 1), (2, 3), (4,), sequence_id=1))
    assert_same(cache, Query((0, 1, 2), (3,), (4,), sequence_id=1))
    assert_same(cache, Query((0, 1), (2,), (4,), sequence_id=1), is_draft=False)
    assert_same(cache, Query((0, 1, 2, 3), (), (4,), sequence_id=1), is_draft=True)
    assert len(backend.asked) == 1
    # Of a longer continuation only the rest is asked for, and of a token that the model picked
    # only what follows it.
    (picked,) = BACKEND.score([Query((0, 1, 2, 3), ())])[0].picks
    other = (picked + 1) % VOCAB
    assert_same(cache, Query((0, 1), (2, 3, other, 1), (4,), sequence_id=1))
    assert_same(cache, Query((0, 1), (2, 3, picked, 1), (4,), sequence_id=1))
    assert backend.asked[1:] == [
        Query((0, 1, 2, 3), (other, 1), (4,), sequence_id=1),
        Query((0, 1, 2, 3, picked), (1,), (4,), sequence_id=1),
    ]


def test_what_is_known_far_back_is_forgotten_and_near_is_not() -> None:
    backend = Counting()
    cache = AnswerCache(backend)
    for end in range(1, 3 * REACH):
        assert_same(cache, Query(LONG[:end], (), (4,), sequence_id=1))
    backend.asked.clear()
    for end in range(2 * REACH, 3 * REACH):
        assert_same(cache, Query(LONG[:end], (), (4,), sequence_id=1))
    assert backend.asked == []


@pytest.mark.parametrize(
    "other",
    [
        Query((0, 1), (2,), (3,), sequence_id=1),
        Query((0, 1), (2,), (4,), Sampling(1.0, seed=1), 1),
        Query((0, 1), (2,), (4,), sequence_id=2),
        Query((0, 1), (2,), (4,)),
    ],
)
def test_other_questions_are_asked(other: Query) -> None:
    """Of other watched ids, another sampling, another sequence, or of none."""
    backend = Counting()
    cache = AnswerCache(backend)
    assert_same(cache, Query((0, 1), (2,), (4,), sequence_id=1))
    assert_same(cache, other)
    assert len(backend.asked) == 2


def test_a_pace_by_hand() -> None:
    """Passes that take 10 ms each and 1 ms more for each of their tokens."""
    pace = Pace()
    for num_tokens in (1, 5, 20, 3, 40):
        pace.observe(num_tokens, 0.010 + 0.001 * num_tokens)
    assert pace.per_pass == pytest.approx(0.010)
    assert pace.per_token == pytest.approx(0.001)
    assert pace.seconds(8) == pytest.approx(0.018)
    assert pace.seconds(8, num_texts=4) == pytest.approx(0.0105)
    pace.observe(0, 1.0)
    pace.observe(5, 0.0)
    assert pace.per_pass == pytest.approx(0.010)


def test_one_kind_of_pass_says_that_nearly_all_is_the_pass() -> None:
    pace = Pace()
    for _ in range(9):
        pace.observe(10, 0.020)
    assert pace.per_pass == pytest.approx(0.018)
    assert pace.per_token == pytest.approx(0.0002)
    assert pace.seconds(10) == pytest.approx(0.020)


def test_no_part_of_a_pace_is_negative() -> None:
    falling, steep = Pace(), Pace()
    for num_tokens in (1, 2, 30):
        falling.observe(num_tokens, 1 / num_tokens)
        steep.observe(num_tokens, 0.001 * num_tokens**2)
    for pace in (falling, steep):
        assert pace.per_pass >= 0
        assert pace.per_token >= 0


class Narrow(Counting):
    """Takes no query for more than two tokens, as a backend whose memory is full."""

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        if any(len(query.continuation) > 2 for query in queries):
            raise RuntimeError("out of memory")
        return super().score(queries)


@pytest.mark.parametrize("is_draft", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_a_rider_fails_alone(length: int, is_draft: bool) -> None:
    cache = AnswerCache(Narrow())
    query = Query((1, 2), () if is_draft else (3,), sequence_id=7)
    rider = ModelRequest(0, replace(query, continuation=(0,) * length))
    cache.riders = lambda queries: [rider]
    (found,) = cache.answer([ModelRequest(0, query, is_draft)])
    (wanted,) = BACKEND.draft([query], 1) if is_draft else BACKEND.score([query])
    assert (found.picks, found.pick_log_probs) == (wanted.picks, wanted.pick_log_probs)
    assert (len(cache.known(rider.query).along((0,))[0]) == 1) == (length == 1)
