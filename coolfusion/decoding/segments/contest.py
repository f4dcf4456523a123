"""The contest of one step: from drafts to candidates, from scores to a winner.

Pure decisions over one row's ``SegmentStep``; asking the models is the decoder's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from coolfusion.decoding.segments.drafting import Draft
from coolfusion.decoding.segments.end_rules import EndQuestion
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.rerankers import ScoreTable, Tally
from coolfusion.decoding.segments.scoring import SegmentScores
from coolfusion.decoding.source_weights import uniform
from coolfusion.errors import SourceError
from coolfusion.types import (
    Candidate,
    Floats,
    SkippedSource,
    Usage,
)

Value = TypeVar("Value", int, float)


@dataclass(slots=True)
class SegmentStep:
    """What is known of one row's step so far. ``sources`` are those active at its start.

    ``samples`` are further drafts of sources that draft several times. ``aside`` is what they
    spent beside drafting and scoring: on guesses, on a gate, on the prompt. ``weights`` and
    ``tallies``, by source, are what the response has taught before; empty: nothing.
    """

    sources: tuple[str, ...]
    drafts: dict[str, Draft] = field(default_factory=dict)
    samples: dict[str, tuple[Draft, ...]] = field(default_factory=dict)
    scores: dict[str, SegmentScores] = field(default_factory=dict)
    aside: dict[str, Usage] = field(default_factory=dict)
    dropped: dict[str, SourceError] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    end_asked: bool = False
    winner: int | None = None
    log_end: tuple[float, ...] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def all_drafts(self) -> Iterator[tuple[str, Draft]]:
        """Every draft with its source, in the order of the sources."""
        for name in self.sources:
            if name in self.drafts:
                yield name, self.drafts[name]
                yield from ((name, draft) for draft in self.samples.get(name, ()))

    @property
    def enders(self) -> tuple[str, ...]:
        """Sources with a draft that ends the text and adds none to it."""
        return tuple(
            dict.fromkeys(n for n, draft in self.all_drafts if draft.ends and not draft.text)
        )

    @property
    def is_contest(self) -> bool:
        """Whether the sources have to score anything."""
        return len(self.candidates) > 1 or (self.end_asked and bool(self.candidates))

    @property
    def withdrawn(self) -> tuple[SkippedSource, ...]:
        """Sources without a candidate of their own, in order."""
        drafted = {name for candidate in self.candidates for name in candidate.drafters}
        reasons: dict[str, str] = {}
        for name, draft in self.all_drafts:
            if draft.withdrawn and name not in drafted:
                reasons.setdefault(name, draft.withdrawn)
        if self.end_asked and not any(candidate.ends for candidate in self.candidates):
            for name in self.enders:
                if name not in drafted:
                    reasons[name] = "it wanted to end the text, the sources together did not"
        return tuple(SkippedSource(name, reasons[name]) for name in self.sources if name in reasons)

    @property
    def usage(self) -> tuple[Usage, ...]:
        """What each of ``sources`` spent."""
        total = {name: self.aside.get(name, Usage()) for name in self.sources}
        for name, draft in self.all_drafts:
            total[name] += draft.usage
        for name, scores in self.scores.items():
            total[name] += scores.usage
        return tuple(total.values())

    def spend(self, name: str, usage: Usage) -> None:
        """Note what a source spent beside drafting and scoring."""
        self.aside[name] = self.aside.get(name, Usage()) + usage


def leads(turn: SegmentStep, recipe: Recipe) -> list[str]:
    """The sources still there, the heaviest first; those of equal weight in their order."""
    weights = {
        name: recipe.weights.get(name, 0.0 if recipe.weights else 1.0) * turn.weights.get(name, 1.0)
        for name in turn.sources
        if name not in turn.dropped
    }
    return sorted(weights, key=weights.__getitem__, reverse=True)


def merge(turn: SegmentStep, recipe: Recipe) -> None:
    """SegmentStep equal drafts into one candidate each, in the order of the sources.

    Unless ends compete, an end is not a candidate but a question: one that every source
    with a draft agrees on is answered at once, any other is left for ``decide``.
    """
    drafters: dict[tuple[str, bool], list[str]] = {}
    for name, draft in turn.all_drafts:
        if draft.withdrawn is None and (draft.text or recipe.ends_compete):
            ends = draft.ends and recipe.ends_compete
            drafters.setdefault((draft.text, ends), []).append(name)
    turn.candidates = [
        Candidate(text, ends, tuple(dict.fromkeys(names)))
        for (text, ends), names in drafters.items()
    ]
    if recipe.ends_compete:
        return
    if turn.enders and not turn.candidates:
        turn.candidates = [Candidate("", True, turn.enders)]
    turn.end_asked = bool(turn.enders) and not turn.candidates[0].ends


def decide(turn: SegmentStep, recipe: Recipe) -> None:
    """Settle the end question, then let the reranker choose among the candidates."""
    judges = _judges(turn)
    if turn.end_asked and judges and _ends(turn, judges, recipe):
        turn.candidates = [Candidate("", True, turn.enders)]
        turn.winner = 0
    elif len(turn.candidates) > 1 and judges:
        rerank(turn, recipe)
    elif turn.candidates:
        turn.winner = 0


def rerank(turn: SegmentStep, recipe: Recipe) -> None:
    """Give every candidate its cost, by the scores there are, and the lowest the win."""
    judges = _judges(turn)
    scores = [turn.scores[name] for name in judges]
    costs = np.asarray(recipe.reranker(_table(turn, judges)), dtype=np.float64)
    turn.winner = int(np.where(np.isnan(costs), np.inf, costs).argmin())
    turn.candidates = [
        replace(
            candidate,
            log_likelihoods=_column(
                turn, [entry.log_likelihoods[c] for entry in scores], judges, float("nan")
            ),
            num_tokens=_column(turn, [entry.num_tokens[c] for entry in scores], judges, 0),
            cost=float(costs[c]),
        )
        for c, candidate in enumerate(turn.candidates)
    ]


def _judges(turn: SegmentStep) -> list[str]:
    return [name for name in turn.sources if name in turn.scores]


def _ends(turn: SegmentStep, judges: list[str], recipe: Recipe) -> bool:
    log_end = np.array([turn.drafts[name].log_end for name in judges])
    turn.log_end = tuple(
        turn.drafts[name].log_end if name in turn.drafts else float("nan") for name in turn.sources
    )
    log_first = np.array([turn.scores[name].log_first for name in judges]).T
    weights = _weights(judges, recipe, turn)
    heard = weights > 0
    return recipe.end_rule(EndQuestion(log_end[heard], log_first[:, heard], weights[heard]))


def _weights(judges: list[str], recipe: Recipe, turn: SegmentStep) -> Floats:
    """The contest's weights of these judges; equal ones where it has none for any of them."""
    raw: Floats = np.array([recipe.weights.get(name, 0.0) for name in judges])
    if not raw.any():
        return _learnt(judges, turn)
    if turn.weights:
        raw = raw * _learnt(judges, turn)
    normalized: Floats = raw / raw.sum()
    return normalized


def _learnt(judges: list[str], turn: SegmentStep) -> Floats:
    """The weights that the response has taught; equal ones where it has taught none."""
    if not turn.weights:
        return uniform(len(judges))
    raw: Floats = np.array([turn.weights[name] for name in judges])
    normalized: Floats = raw / raw.sum()
    return normalized


def _table(turn: SegmentStep, judges: list[str]) -> ScoreTable:
    scores = [turn.scores[name] for name in judges]
    sizes = [max(1, len(candidate.text.encode())) for candidate in turn.candidates]
    return ScoreTable(
        tuple(judges),
        np.array([entry.log_likelihoods for entry in scores]).T,
        np.array([entry.num_tokens for entry in scores], dtype=np.float64).T,
        np.array(sizes, dtype=np.float64),
        _learnt(judges, turn),
        np.array([[name in c.drafters for name in judges] for c in turn.candidates]),
        tuple(turn.tallies[name] for name in judges) if turn.tallies else (),
    )


def _column(
    turn: SegmentStep, values: list[Value], judges: list[str], absent: Value
) -> tuple[Value, ...]:
    by_name = dict(zip(judges, values, strict=True))
    return tuple(by_name.get(name, absent) for name in turn.sources)
