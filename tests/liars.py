"""Backends that lie, die or exclude: wrappers that spoil what an honest backend says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coolfusion import Source
from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.sampling import pick
from coolfusion.types import Floats

Lie = Callable[[Any], Any]


def in_place(name: str, value: object) -> Lie:
    """The answer with ``value`` as the first entry of one of its tuples, if it has any."""

    def spoiled(answer: Scores) -> Scores:
        rest = getattr(answer, name)[1:]
        return replace(answer, **{name: (value, *rest)})

    return spoiled


def without(name: str) -> Lie:
    """The answer with one entry too few in a tuple."""
    return lambda answer: replace(answer, **{name: getattr(answer, name)[:-1]})


# What no backend may say of a pick, of the watched ids, and of the cost. All are of ``Scores``.
SCORE_LIES: dict[str, Lie] = {
    "+inf": in_place("pick_log_probs", math.inf),
    "NaN": in_place("pick_log_probs", math.nan),
    "5.0": in_place("pick_log_probs", 5.0),
    "-inf": in_place("pick_log_probs", -math.inf),
    "'-1.0'": in_place("pick_log_probs", "-1.0"),
    "None": in_place("pick_log_probs", None),
    "True": in_place("pick_log_probs", True),
    "watched nan": in_place("watched", math.nan),
    "watched 1.0": in_place("watched", 1.0),
    "foreign id": in_place("picks", 10**9),
    "id -1": in_place("picks", -1),
    "id 1.0": in_place("picks", 1.0),
    "id True": in_place("picks", True),
    "id None": in_place("picks", None),
    "few picks": without("picks"),
    "few log-probs": without("pick_log_probs"),
    "few watched": without("watched"),
    "no tuple": lambda answer: replace(answer, picks=None),
    "one number": lambda answer: replace(answer, pick_log_probs=-1.0),
    "a string": lambda answer: replace(answer, watched="-1"),
    "a dict": lambda answer: replace(answer, pick_log_probs=dict.fromkeys(range(1), -1.0)),
    "no answer": lambda answer: None,
    "a number": lambda answer: -1.0,
    "another type": lambda answer: Distributions(np.zeros((1, 1))),
    "cost -1": lambda answer: replace(answer, num_forwarded=-1),
    "cost 'one'": lambda answer: replace(answer, num_passes="one"),
}


def all_rows(change: Callable[[Floats], object]) -> Lie:
    return lambda answer: replace(answer, log_probs=change(answer.log_probs))


def at_first(value: float) -> Callable[[Floats], Floats]:
    def changed(rows: Floats) -> Floats:
        rows = rows.copy()
        rows[0, 0] = value
        return rows

    return changed


DISTRIBUTION_LIES: dict[str, Lie] = {
    "+inf": all_rows(at_first(math.inf)),
    "NaN": all_rows(at_first(math.nan)),
    "5.0": all_rows(at_first(5.0)),
    "too much": all_rows(lambda rows: rows + 0.1),
    "too little": all_rows(lambda rows: rows - 0.1),
    "nothing": all_rows(lambda rows: np.full_like(rows, -np.inf)),
    "too wide": all_rows(lambda rows: np.pad(rows, ((0, 0), (0, 1)), constant_values=-np.inf)),
    "too few rows": all_rows(lambda rows: rows[:-1]),
    "one row": all_rows(lambda rows: rows[0]),
    "objects": all_rows(lambda rows: rows.astype(object)),
    "strings": all_rows(lambda rows: rows.astype(str)),
    "None": all_rows(lambda rows: None),
    "no answer": lambda answer: None,
    "another type": lambda answer: Scores((), (), (), ()),
}

# What may come in place of the list of answers.
LIST_LIES: dict[str, Lie] = {
    "None": lambda answers: None,
    "a number": lambda answers: 7,
    "an iterator": iter,
    "a dict": lambda answers: dict(enumerate(answers)),
    "one too few": lambda answers: answers[:-1],
    "one too many": lambda answers: [*answers, answers[-1]],
}


class Wrapped:
    """The honest backend of a source, for subclasses to spoil."""

    def __init__(self, source: Source) -> None:
        self.inner: Any = source.backend
        self.vocab_size, self.context_length = self.inner.vocab_size, self.inner.context_length

    def score(self, queries: Sequence[Query]) -> Any:
        return self.inner.score(queries)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> Any:
        return self.inner.draft(queries, num_tokens)

    def distributions(self, queries: Sequence[Query]) -> Any:
        return self.inner.distributions(queries)


class Lying(Wrapped):
    """Lies in the calls whose turn says so: ``lies`` has a name for each, or None for the truth."""

    def __init__(self, source: Source, lies: Iterator[str | None]) -> None:
        super().__init__(source)
        self.lies, self.num_lies = lies, 0

    def score(self, queries: Sequence[Query]) -> Any:
        return self.spoiled(super().score(queries), SCORE_LIES)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> Any:
        return self.spoiled(super().draft(queries, num_tokens), SCORE_LIES)

    def distributions(self, queries: Sequence[Query]) -> Any:
        return self.spoiled(super().distributions(queries), DISTRIBUTION_LIES)

    def spoiled(self, answers: list[Any], of_one: dict[str, Lie]) -> Any:
        name = next(self.lies, None)
        if name is None:
            return answers
        if name.startswith("raise "):
            self.num_lies += 1
            raise RAISED[name]
        kind, _, name = name.partition(" of ")
        self.num_lies += 1
        if kind == "list":
            return LIST_LIES[name](answers)
        lie = of_one.get(name, of_one["+inf"])
        return [*answers[:-1], lie(answers[-1])]


RAISED: dict[str, Exception] = {
    "raise ValueError": ValueError("out of order"),
    "raise StopIteration": StopIteration(),
    "raise KeyError": KeyError("cat"),
    "raise ConnectionError": ConnectionResetError("the cable was pulled"),
    "raise TimeoutError": TimeoutError("no answer in 30 s"),
}
LIES = (
    *(f"one of {name}" for name in {**SCORE_LIES, **DISTRIBUTION_LIES}),
    *(f"list of {name}" for name in LIST_LIES),
    *RAISED,
)


class Masked(Wrapped):
    """Gives all probability to a few ids, whatever came before."""

    def __init__(self, source: Source, ids: Sequence[int]) -> None:
        super().__init__(source)
        self.ids = sorted(set(ids))

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        answers = []
        for query in queries:
            (whole,) = self.inner.distributions([query])
            rows = np.full_like(whole.log_probs, -np.inf)
            rows[:, self.ids] = whole.log_probs[:, self.ids]
            answers.append(Distributions(rows - np.logaddexp.reduce(rows, axis=1)[:, None], 1, 1))
        return answers

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        answers = []
        for query, whole in zip(queries, self.distributions(queries), strict=True):
            rows, first = whole.log_probs, len(query.prefix)
            picks = [pick(row, query.sampling, first + i) for i, row in enumerate(rows)]
            said = zip(rows, query.continuation, strict=False)
            answers.append(
                Scores(
                    tuple(float(row[token]) for row, token in said),
                    tuple(picks),
                    tuple(float(row[token]) for row, token in zip(rows, picks, strict=True)),
                    tuple(float(np.logaddexp.reduce(row[list(query.watch)])) for row in rows),
                    1,
                    1,
                )
            )
        return answers

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        drafts = []
        for query in queries:
            prefix, ids = query.prefix + query.continuation, ()
            for _ in range(num_tokens):
                (scores,) = self.score([replace(query, prefix=prefix, continuation=ids)])
                ids = (*ids, scores.picks[-1])
            (scores,) = self.score([replace(query, prefix=prefix, continuation=ids)])
            cut = {name: getattr(scores, name)[:-1] for name in ("pick_log_probs", "watched")}
            drafts.append(replace(scores, picks=ids, **cut))
        return drafts


def masked(source: Source, name: str, texts: Sequence[str] = (), *, ends: bool = False) -> Source:
    """A source that can say nothing but ``texts``, each the token it begins with, or an end."""
    ids = [source.tokenizer.encode(text)[0] for text in texts]
    ids += source.tokenizer.end_ids if ends else []
    return Source(name, source.tokenizer, Masked(source, ids))
