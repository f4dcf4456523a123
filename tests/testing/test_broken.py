"""Broken objects, each of which a check must catch by the law it breaks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.ngram import NgramBackend
from coolfusion.decoding.segments.rerankers import ScoreTable, mean_nll
from coolfusion.errors import ContextLengthError
from coolfusion.testing import (
    ConformanceError,
    check_backend,
    check_boundary,
    check_reranker,
    check_tokenizer,
    toy_source,
)
from coolfusion.tokenization.boundaries import Boundary

IDS = [[i * i % 11 for i in range(40)], [3, 4, 3, 4, 5, 0]]
COUNTER = iter(range(1, 1000))
TURNS = itertools.count()


class Sound:
    """A backend whose answers subclasses spoil."""

    vocab_size = 13
    context_length: int | None = 40

    def __init__(self) -> None:
        self.inner = NgramBackend(IDS, 13, order=3, context_length=40)

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        return self.inner.score(queries)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        return self.inner.draft(queries, num_tokens)


def shifted(scores: Scores, by: float) -> Scores:
    return replace(scores, log_probs=tuple(value + by for value in scores.log_probs))


class Positive(Sound):
    def score(self, queries):
        return [shifted(answer, 9.0) for answer in self.inner.score(queries)]


class Short(Sound):
    def score(self, queries):
        return [replace(a, picks=a.picks[:-1]) for a in self.inner.score(queries)]


class Unchained(Sound):
    def score(self, queries):
        answers = self.inner.score(queries)
        return [shifted(a, -0.1 * len(a.log_probs)) for a in answers]


class Leaky(Sound):
    calls = 0

    def score(self, queries):
        self.calls += 1
        return [shifted(a, -0.01 * (self.calls - 1)) for a in self.inner.score(queries)]


class LeakyByLength(Sound):
    """Remembers the shortest prefix it has ever seen."""

    shortest = 99

    def score(self, queries):
        seen = self.shortest
        self.shortest = min(seen, *(len(query.prefix) for query in queries))
        return [shifted(a, -0.1 * (seen == 2)) for a in self.inner.score(queries)]


class OrderBound(Sound):
    def score(self, queries):
        return [shifted(a, -0.01 * i) for i, a in enumerate(self.inner.score(queries))]


class Crowded(Sound):
    def score(self, queries):
        crowd = len(queries) - 1
        return [shifted(a, -0.01 * crowd) for a in self.inner.score(queries)]


class OtherDrafts(Sound):
    def draft(self, queries, num_tokens):
        return [shifted(a, -0.5) for a in self.inner.draft(queries, num_tokens)]


class OtherPicks(Sound):
    def draft(self, queries, num_tokens):
        answers = super().draft(queries, num_tokens)
        picks = [(*a.picks[:-1], (a.picks[-1] + 1) % 13) for a in answers]
        return [replace(a, picks=p) for a, p in zip(answers, picks, strict=True)]


class Clinging(Sound):
    drafted = 0

    def draft(self, queries, num_tokens):
        self.drafted += 1
        return self.inner.draft(queries, num_tokens)

    def score(self, queries):
        return [shifted(a, -0.1 * bool(self.drafted)) for a in self.inner.score(queries)]


class Unwatchful(Sound):
    def score(self, queries):
        answers = self.inner.score(queries)
        return [replace(a, watched=tuple(w - 0.2 for w in a.watched)) for a in answers]

    def draft(self, queries, num_tokens):
        answers = self.inner.draft(queries, num_tokens)
        return [replace(a, watched=tuple(w - 0.2 for w in a.watched)) for a in answers]


class Modest(Sound):
    """Claims the first id as its pick, with that id's true log-probability."""

    def score(self, queries):
        answers = []
        for query, answer in zip(queries, self.inner.score(queries), strict=True):
            ids = query.prefix + query.continuation
            ends = range(len(query.prefix), len(ids) + 1)
            own = [self.inner.score([Query(ids[:end], (12,))])[0].log_probs[0] for end in ends]
            answers.append(replace(answer, picks=(12,) * len(own), pick_log_probs=tuple(own)))
        return answers

    def draft(self, queries, num_tokens):
        drafts = []
        for query in queries:
            prefix = query.prefix + query.continuation
            asked = replace(query, prefix=prefix, continuation=(12,) * num_tokens)
            drafts.append(self.score([asked])[0])
        return drafts


class Overfull(Sound):
    def distributions(self, queries):
        return [replace(a, log_probs=a.log_probs + 0.1) for a in self.inner.distributions(queries)]


class Crossed(Sound):
    def distributions(self, queries):
        answers = self.inner.distributions(queries)
        return [replace(a, log_probs=a.log_probs[:, ::-1]) for a in answers]


class Restless(Sound):
    """Adds the length of a batch to the seed."""

    def score(self, queries):
        return self.inner.score([self.reseeded(query, len(queries)) for query in queries])

    def reseeded(self, query, by):
        if query.sampling.is_greedy:
            return query
        return replace(query, sampling=replace(query.sampling, seed=query.sampling.seed + by - 1))


class Careless(Sound):
    def score(self, queries):
        return self.inner.score(
            [
                replace(
                    query,
                    prefix=tuple(token % 13 for token in query.prefix),
                    continuation=tuple(token % 13 for token in query.continuation),
                )
                for query in queries
            ]
        )


class Boundless(Sound):
    context_length = 20


class Narrow(Sound):
    def score(self, queries):
        if any(len(query.prefix + query.continuation) >= 40 for query in queries):
            raise ContextLengthError("full")
        return self.inner.score(queries)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Positive, "at most 0"),
        (Short, "shape"),
        (Unchained, "chain rule"),
        (Leaky, "chain rule|earlier calls"),
        (LeakyByLength, "earlier calls"),
        (OrderBound, "batch order"),
        (Crowded, "batch mates"),
        (OtherDrafts, "of a draft"),
        (OtherPicks, "draft"),
        (Clinging, "abandoning"),
        (Overfull, "sum to 1"),
        (Crossed, "entry in the distribution"),
        (Unwatchful, "watched"),
        (Modest, "likeliest"),
        (Restless, "sampled picks"),
        (Careless, "vocabulary"),
        (Boundless, "context limit|vocabulary|Expected a SourceError"),
        (Narrow, "context limit"),
    ],
)
def test_broken_backends(broken: Callable[[], Sound], law: str) -> None:
    check_backend(Sound)
    with pytest.raises(ConformanceError, match=law):
        check_backend(broken)


@pytest.mark.parametrize(
    ("cuts", "law"),
    [
        (lambda text: (5, 3), "ascend"),
        (lambda text: (0,), "inside"),
        (lambda text: (len(text),), "inside"),
        (lambda text: [text.index("345") + 1], "number"),
        (lambda text: [text.index("\u0301")], "grapheme"),
        (lambda text: [text.index("two")], "white space"),
        (lambda text: [len(text) - 2], "holds a word"),
        (lambda text: [next(COUNTER)], "deterministic"),
    ],
)
def test_broken_boundaries(cuts: Callable[[str], Sequence[int]], law: str) -> None:
    with pytest.raises(ConformanceError, match=law):
        check_boundary(Boundary("broken", cuts), ["one two 12345 e\u0301 end  "])


class BrokenTokenizer:
    """A sound toy tokenizer with one method replaced."""

    def __init__(self, **replaced) -> None:
        self.inner = toy_source("toy", ["a b c"], family="bytes").tokenizer
        self.replaced = replaced

    def __getattr__(self, name):
        if name in self.replaced:
            return lambda value: self.replaced[name](self.inner, value)
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("replaced", "law"),
    [
        ({"encode": lambda t, text: t.encode(text.lower())}, "join"),
        ({"encode": lambda t, text: t.encode(text) + tuple(t.end_ids)}, "end id"),
        (
            {
                "encode": lambda t, text: tuple(i + 2000 * next(TURNS) for i in t.encode(text)),
                "piece": lambda t, token: t.piece(token % 2000),
            },
            "equal texts",
        ),
        ({"encode": lambda t, text: t.encode(text)[: max(2, len(text))]}, "join"),
        ({"piece": lambda t, token: b"x"}, "join"),
    ],
)
def test_broken_tokenizers(replaced, law: str) -> None:
    check_tokenizer(BrokenTokenizer())
    with pytest.raises(ConformanceError, match=law):
        check_tokenizer(BrokenTokenizer(**replaced))


def test_a_tokenizer_whose_ids_depend_on_the_length_of_the_text() -> None:
    """Far context that changes early ids is what incremental encoding cannot follow."""
    pair = toy_source("toy", ["ab ab ab ab"], family="byte_bpe").tokenizer
    single = toy_source("toy", ["zq"], family="bytes").tokenizer

    class FarSighted(BrokenTokenizer):
        def __init__(self) -> None:
            self.inner = single
            self.replaced = {
                "encode": lambda t, text: (
                    t.encode(text)
                    if len(text) < 120
                    else tuple(2000 + token for token in t.encode(text))
                ),
                "piece": lambda t, token: t.piece(token % 2000),
            }

    check_tokenizer(pair, ["ab " * 80])
    with pytest.raises(ConformanceError, match="incremental"):
        check_tokenizer(FarSighted(), ["ab " * 80])


def by_position(table: ScoreTable) -> np.ndarray:
    return mean_nll(table) + np.arange(len(table.num_bytes))


@pytest.mark.parametrize(
    ("reranker", "law"),
    [
        (lambda table: mean_nll(table)[:-1], "one cost per candidate"),
        (lambda table: mean_nll(table) * np.nan, "finite"),
        (by_position, "permuting candidates"),
        (lambda table: -table.log_likelihoods[:, 0], "permuting sources"),
        (lambda table: -table.log_likelihoods.sum(axis=1), "duplicating"),
        (lambda table: -mean_nll(table), "never worsens"),
        (lambda table: mean_nll(table) + next(COUNTER), "equal tables"),
    ],
)
def test_broken_rerankers(reranker, law: str) -> None:
    with pytest.raises(ConformanceError, match=law):
        check_reranker(reranker)


def test_a_reranker_that_alters_its_table() -> None:
    def spoil(table: ScoreTable) -> np.ndarray:
        costs = np.ones(len(table.num_bytes))
        table.log_likelihoods[:] = -1.0
        return costs

    with pytest.raises(ConformanceError, match="alter"):
        check_reranker(spoil)
