"""The contest of one step: from drafts to candidates, from scores to a winner.

Pure decisions over one row's ``Turn``; asking the models is the decoder's work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from coolfusion.drafting import Draft
from coolfusion.ending import EndQuestion
from coolfusion.errors import SourceError
from coolfusion.recipe import Recipe
from coolfusion.reranking import Floats, ScoreTable, uniform
from coolfusion.scoring import SegmentScores
from coolfusion.types import Absence, Candidate, Usage

Value = TypeVar("Value", int, float)


@dataclass(slots=True)
class Turn:
    """What is known of one row's step so far. ``sources`` are those active at its start.

    ``guessed`` is what guessing ahead cost them.
    """

    sources: tuple[str, ...]
    drafts: dict[str, Draft] = field(default_factory=dict)
    scores: dict[str, SegmentScores] = field(default_factory=dict)
    guessed: dict[str, Usage] = field(default_factory=dict)
    dropped: dict[str, SourceError] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    end_asked: bool = False
    winner: int | None = None
    log_end: tuple[float, ...] | None = None

    @property
    def is_contest(self) -> bool:
        """Whether the sources have to score anything."""
        return len(self.candidates) > 1 or (self.end_asked and bool(self.candidates))

    @property
    def withdrawn(self) -> tuple[Absence, ...]:
        """Sources without a candidate of their own, in order."""
        reasons = {name: draft.withdrawn for name, draft in self.drafts.items() if draft.withdrawn}
        if self.end_asked and not any(candidate.ends for candidate in self.candidates):
            for name, draft in self.drafts.items():
                if draft.ends and not draft.text:
                    reasons[name] = "it wanted to end the text, the sources together did not"
        return tuple(Absence(name, reasons[name]) for name in self.sources if name in reasons)

    @property
    def usage(self) -> tuple[Usage, ...]:
        """What each of ``sources`` spent."""
        none = Usage()
        return tuple(
            self.guessed.get(name, none)
            + (self.drafts[name].usage if name in self.drafts else none)
            + (self.scores[name].usage if name in self.scores else none)
            for name in self.sources
        )


def merge(turn: Turn, recipe: Recipe) -> None:
    """Turn equal drafts into one candidate each, in the order of the sources.

    Unless ends compete, an end is not a candidate but a question: one that every source
    with a draft agrees on is answered at once, any other is left for ``decide``.
    """
    drafters: dict[tuple[str, bool], list[str]] = {}
    for name, draft in turn.drafts.items():
        if draft.withdrawn is None and (draft.text or recipe.ends_compete):
            ends = draft.ends and recipe.ends_compete
            drafters.setdefault((draft.text, ends), []).append(name)
    turn.candidates = [
        Candidate(text, ends, tuple(names)) for (text, ends), names in drafters.items()
    ]
    if recipe.ends_compete:
        return
    enders = tuple(name for name, draft in turn.drafts.items() if draft.ends and not draft.text)
    if enders and not turn.candidates:
        turn.candidates = [Candidate("", True, enders)]
    turn.end_asked = bool(enders) and not turn.candidates[0].ends


def decide(turn: Turn, recipe: Recipe) -> None:
    """Settle the end question, then let the reranker choose among the candidates."""
    judges = [name for name in turn.sources if name in turn.scores]
    if turn.end_asked and judges and _ends(turn, judges, recipe):
        enders = tuple(name for name, draft in turn.drafts.items() if draft.ends and not draft.text)
        turn.candidates = [Candidate("", True, enders)]
        turn.winner = 0
    elif len(turn.candidates) > 1 and judges:
        _rerank(turn, judges, recipe)
    elif turn.candidates:
        turn.winner = 0


def _ends(turn: Turn, judges: list[str], recipe: Recipe) -> bool:
    log_end = np.array([turn.drafts[name].log_end for name in judges])
    turn.log_end = tuple(
        turn.drafts[name].log_end if name in turn.drafts else float("nan") for name in turn.sources
    )
    log_first = np.array([turn.scores[name].log_first for name in judges]).T
    weights = _weights(judges, recipe)
    heard = weights > 0
    return recipe.end_rule(EndQuestion(log_end[heard], log_first[:, heard], weights[heard]))


def _weights(judges: list[str], recipe: Recipe) -> Floats:
    """The contest's weights of these judges; equal ones where it has none for any of them."""
    raw: Floats = np.array([recipe.weights.get(name, 0.0) for name in judges])
    if not raw.any():
        return uniform(len(judges))
    normalized: Floats = raw / raw.sum()
    return normalized


def _rerank(turn: Turn, judges: list[str], recipe: Recipe) -> None:
    scores = [turn.scores[name] for name in judges]
    table = ScoreTable(
        tuple(judges),
        np.array([entry.log_likelihoods for entry in scores]).T,
        np.array([entry.num_tokens for entry in scores], dtype=np.float64).T,
        np.array(
            [max(1, len(candidate.text.encode())) for candidate in turn.candidates],
            dtype=np.float64,
        ),
        uniform(len(judges)),
    )
    costs = np.asarray(recipe.reranker(table), dtype=np.float64)
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


def _column(turn: Turn, values: list[Value], judges: list[str], absent: Value) -> tuple[Value, ...]:
    by_name = dict(zip(judges, values, strict=True))
    return tuple(by_name.get(name, absent) for name in turn.sources)
