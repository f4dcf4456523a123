"""The contest of one step: from drafts to candidates, from scores to a winner.

Pure decisions over one row's ``SegmentStep``; asking the models is the decoder's work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from coolfusion.decoding.segments.drafting import Draft
from coolfusion.decoding.segments.end_rules import EndQuestion
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.rerankers import Reranker, ScoreTable, Tally
from coolfusion.decoding.segments.scoring import SegmentScores
from coolfusion.decoding.segments.zeros import excluding, floored, floored_end, noted, voting
from coolfusion.decoding.source_weights import normalized, uniform
from coolfusion.errors import SourceError, UsageError
from coolfusion.types import (
    END_REFUSED,
    Candidate,
    Floats,
    SkippedSource,
    Usage,
)


@dataclass(slots=True)
class SegmentStep:
    """The step of one response under way. ``sources`` are those active at its start.

    ``samples`` are further drafts of sources that draft several times. ``aside`` is what they
    spent beside drafting and scoring: on guesses, on a gate, on the prompt. ``weights`` and
    ``tallies``, by source, were learnt earlier in the response; empty: nothing was. ``zeros`` say
    of sources what they gave probability 0, and what followed. A step ``is_uncontested`` if the
    lead source drafted alone.
    """

    sources: tuple[str, ...]
    drafts: dict[str, Draft] = field(default_factory=dict)
    samples: dict[str, tuple[Draft, ...]] = field(default_factory=dict)
    scores: dict[str, SegmentScores] = field(default_factory=dict)
    aside: dict[str, Usage] = field(default_factory=dict)
    dropped: dict[str, SourceError] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    is_uncontested: bool = False
    end_asked: bool = False
    winner: int | None = None
    log_end: tuple[float, ...] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)

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
        if self.is_uncontested:
            return False
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
                    reasons[name] = END_REFUSED
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


def leads(step: SegmentStep, recipe: Recipe) -> list[str]:
    """The sources still there, the heaviest first; those of equal weight in their order."""
    weights = {
        name: recipe.weights.get(name, 0.0 if recipe.weights else 1.0) * step.weights.get(name, 1.0)
        for name in step.sources
        if name not in step.dropped
    }
    return sorted(weights, key=weights.__getitem__, reverse=True)


def merge(step: SegmentStep, recipe: Recipe) -> None:
    """Make one candidate of equal drafts, in the order of the sources.

    Unless ends compete, an end is not a candidate but a question. If every source with a draft
    wants the end, it is answered at once; else ``rerank`` answers it.
    """
    drafters: dict[tuple[str, bool], list[str]] = {}
    for name, draft in step.all_drafts:
        if draft.withdrawn is None and (draft.text or recipe.ends_compete):
            ends = draft.ends and recipe.ends_compete
            drafters.setdefault((draft.text, ends), []).append(name)
    step.candidates = [
        Candidate(text, ends, tuple(dict.fromkeys(names)))
        for (text, ends), names in drafters.items()
    ]
    if recipe.ends_compete:
        return
    if step.enders and not step.candidates:
        step.candidates = [Candidate("", True, step.enders)]
    step.end_asked = bool(step.enders) and not step.candidates[0].ends


def rerank(step: SegmentStep, recipe: Recipe) -> None:
    """Settle the end question, then let the reranker choose among the candidates."""
    judges = _judges(step)
    if step.end_asked and judges and _ends(step, judges, recipe):
        step.candidates = [Candidate("", True, step.enders)]
        step.winner = 0
    elif len(step.candidates) > 1 and judges:
        set_costs(step, recipe)
    elif step.candidates:
        step.winner = 0


def set_costs(step: SegmentStep, recipe: Recipe) -> None:
    """Give every candidate its cost, by the scores of those with a vote; the lowest cost wins."""
    judges = _judges(step)
    reasons = excluding(step.candidates, step.scores)
    votes = voting(judges, reasons, _weights(judges, recipe, step))
    step.zeros.update(noted(reasons, votes))
    costs = costs_of(recipe.reranker, _table(step, votes))
    step.winner = cheapest(costs)
    step.candidates = [
        judged(candidate, c, step.sources, step.scores, float(costs[c]))
        for c, candidate in enumerate(step.candidates)
    ]


def costs_of(reranker: Reranker, table: ScoreTable) -> Floats:
    """A reranker's costs (candidates,). Raises ``UsageError`` where it gives anything else."""
    costs = np.asarray(reranker(table), dtype=np.float64)
    if costs.shape != table.num_bytes.shape:
        raise UsageError(
            f"The reranker gave costs of the shape {costs.shape} for {len(table.num_bytes)} "
            "candidates. It must give one cost for each; check_reranker tries it."
        )
    return costs


def cheapest(costs: Floats) -> int:
    """Index of the lowest cost, the first of equal ones; NaN counts as infinite."""
    return int(np.where(np.isnan(costs), np.inf, costs).argmin())


def judged(
    candidate: Candidate,
    index: int,
    sources: Sequence[str],
    scores: Mapping[str, SegmentScores],
    cost: float,
) -> Candidate:
    """The candidate, number ``index`` of those scored, with its column of scores and its cost.

    A source without scores has NaN and no tokens.
    """
    return replace(
        candidate,
        log_likelihoods=tuple(
            scores[name].log_likelihoods[index] if name in scores else math.nan for name in sources
        ),
        num_tokens=tuple(
            scores[name].num_tokens[index] if name in scores else 0 for name in sources
        ),
        cost=cost,
    )


def _judges(step: SegmentStep) -> list[str]:
    return [name for name in step.sources if name in step.scores]


def _ends(step: SegmentStep, judges: list[str], recipe: Recipe) -> bool:
    """Whether the sources together decide that the response ends here."""
    if recipe.end_rule is None:
        return False
    step.log_end = tuple(
        step.drafts[name].log_end if name in step.drafts else math.nan for name in step.sources
    )
    reasons = {
        name: "it gives probability 0 to an end here"
        for name in judges
        if not math.isfinite(step.drafts[name].log_end)
    } | excluding(step.candidates, step.scores)
    votes = voting(judges, reasons, _weights(judges, recipe, step))
    step.zeros.update(noted(reasons, votes))
    log_end = np.array([step.drafts[name].log_end for name in votes])
    log_first = np.array([step.scores[name].log_first for name in votes]).T
    weights = _weights(votes, recipe, step)
    heard = weights > 0
    question = EndQuestion(log_end[heard], log_first[:, heard], weights[heard])
    return recipe.end_rule(floored_end(question))


def _weights(judges: list[str], recipe: Recipe, step: SegmentStep) -> Floats:
    """The recipe's weights of these judges times those learnt; equal ones where all are zero."""
    raw = np.array([recipe.weights.get(name, 0.0) for name in judges])
    if not raw.any():
        return _learnt(judges, step)
    return normalized(raw * _learnt(judges, step) if step.weights else raw)


def _learnt(judges: list[str], step: SegmentStep) -> Floats:
    """The weights that the response has taught; equal ones where it has taught none."""
    return normalized(np.array([step.weights.get(name, 1.0) for name in judges]))


def _table(step: SegmentStep, judges: list[str]) -> ScoreTable:
    table = score_table(step.candidates, {name: step.scores[name] for name in judges})
    return replace(
        table,
        weights=_learnt(judges, step),
        tallies=tuple(step.tallies[name] for name in judges) if step.tallies else (),
    )


def score_table(candidates: Sequence[Candidate], scores: Mapping[str, SegmentScores]) -> ScoreTable:
    """The (candidates, sources) table that a reranker is given, with equal weights.

    Zeros are at the floor of ``coolfusion.decoding.segments.zeros``.
    """
    sizes = [max(1, len(candidate.text.encode())) for candidate in candidates]
    table = ScoreTable(
        tuple(scores),
        np.array([each.log_likelihoods for each in scores.values()], dtype=np.float64).T,
        np.array([each.num_tokens for each in scores.values()], dtype=np.float64).T,
        np.array(sizes, dtype=np.float64),
        uniform(len(scores)),
        np.array([[name in each.drafters for name in scores] for each in candidates]),
    )
    return replace(table, log_likelihoods=floored(table))
