"""Beam search over segments: several responses are kept, and the likeliest continued in every way.

The fusion loop commits the winner of a contest. A beam commits every candidate, each to a copy of
the state. It keeps the ``width`` responses whose segments have the lowest mean cost. A beam of 1
is the fusion loop. The stages are those of ``coolfusion.decoding.segments.decoder``: a state is a
value, so branching it is free.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import final

from coolfusion.checks.arguments import checked
from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import gather
from coolfusion.decoding.segments.contest import SegmentStep, merge, rerank, set_costs
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.state import State
from coolfusion.errors import SourceError, UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A response that a beam keeps.

    ``total_cost`` is the sum of the reranker's costs of its ``num_costs`` segments that were
    scored. An end that the sources decided on has no cost of its own.
    """

    state: State
    steps: tuple[Step, ...] = ()
    total_cost: float = 0.0
    num_costs: int = 0

    @property
    def cost(self) -> float:
        """Mean cost of its segments, 0 before the first."""
        return self.total_cost / self.num_costs if self.num_costs else 0.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A response of an n-best list, and the mean cost of its segments; lower is better.

    Its steps' usage is of the contests on its own way; what other responses of the beam cost
    is not among it.
    """

    generation: Generation
    cost: float


@final
class BeamSearch:
    """Searches for the ``width`` best responses of a decoder's sources.

    With a width above 1, segments that all sources agree on are scored too, so that costs can be
    compared. Raises ``UsageError`` for a width below 1. It also does so above 1 with a gate or a
    budget, which would leave segments without a cost.
    """

    @checked
    def __init__(self, decoder: SegmentDecoder, width: int = 4) -> None:
        if width < 1:
            raise UsageError(f"The width of the beam is {width}; it must be at least 1.")
        recipe = decoder.recipe
        if width > 1 and (recipe.gate is not None or recipe.budget is not None):
            raise UsageError(
                "A beam compares the costs of segments, and a gate or a budget leaves some without. "
                "Use one of them."
            )
        self.decoder = decoder
        self.width = width

    @checked
    def generate(self, prompt: Prompt, request: Request | None = None) -> list[Ranked]:
        """Up to ``width`` responses with distinct texts, the best first.

        Raises what ``SegmentDecoder.start`` raises, and with ``on_source_error="raise"`` the
        ``SourceError`` of a source that fails.
        """
        best = [Hypothesis(self.decoder.start(prompt, request))]
        while any(each.state.stop_reason is None for each in best):
            best = self.step(best)
        return [Ranked(self.decoder.finish(h.state, h.steps), h.cost) for h in best]

    def step(self, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        """Extend those that go on by every candidate, and keep the best of all, best first.

        Responses that are over keep their place for as long as no better ones come. Equal
        costs keep the order of what they extend, and then of the candidates' own costs.
        """
        live = [each for each in hypotheses if each.state.stop_reason is None]
        begun = time.perf_counter()
        contests = self.decoder.run(gather([self._contest(h.state, len(live)) for h in live]))
        seconds = (time.perf_counter() - begun) / len(live)
        pool: list[Hypothesis] = []
        outcomes = iter(contests)
        for hypothesis in hypotheses:
            if hypothesis.state.stop_reason is not None:
                pool.append(hypothesis)
                continue
            outcome = next(outcomes)
            if isinstance(outcome, SourceError):
                raise outcome
            pool += self._extended(hypothesis, *outcome, seconds)
        pool.sort(key=lambda each: each.cost)
        return self._apart(_distinct(pool)[: self.width])

    async def _contest(self, state: State, num_texts: int) -> tuple[State, SegmentStep]:
        """A step short of its commit, in which every segment that adds text has a cost."""
        decoder = self.decoder
        state, step = await decoder.draft(state, num_texts)
        merge(step, decoder.recipe)
        await decoder.score(state, step)
        rerank(step, decoder.recipe)
        first = step.candidates[0] if step.candidates else None
        if self.width > 1 and first is not None and first.cost is None and first.text:
            if not step.scores:
                await decoder.score_always(state, step)
            if step.scores:
                set_costs(step, decoder.recipe)
        return state, step

    def _extended(
        self, hypothesis: Hypothesis, state: State, step: SegmentStep, seconds: float
    ) -> list[Hypothesis]:
        """One hypothesis per candidate, the cheapest first."""
        choices: list[int | None] = [*range(len(step.candidates))] or [None]
        extended = []
        for choice in choices:
            step.winner = choice
            after, record = self.decoder.commit(state, step)
            steps = (*hypothesis.steps, replace(record, seconds=seconds))
            cost = None if choice is None else step.candidates[choice].cost
            if cost is None:
                total, num_costs = hypothesis.total_cost, hypothesis.num_costs
            else:
                total = hypothesis.total_cost + (math.inf if math.isnan(cost) else cost)
                num_costs = hypothesis.num_costs + 1
            own = math.inf if cost is None or math.isnan(cost) else cost
            extended.append((own, Hypothesis(after, steps, total, num_costs)))
        return [each for _, each in sorted(extended, key=lambda pair: pair[0])]

    def _apart(self, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        """The first extension of a response keeps its place in caches, the others get their own."""
        seen: set[int | None] = set()
        apart = []
        for each in hypotheses:
            state = each.state
            if state.sequence_id in seen and state.stop_reason is None:
                state = self.decoder.branch(state)
            seen.add(state.sequence_id)
            apart.append(replace(each, state=state))
        return apart


def _distinct(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """The first of those that say the same, in whatever segments, and are over or not alike."""
    first: dict[tuple[str, bool], Hypothesis] = {}
    for each in hypotheses:
        first.setdefault((each.state.text, each.state.stop_reason is None), each)
    return list(first.values())
