"""The progress and the result of a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coolfusion.search import Coefficients, Evaluated
from coolfusion.swarm.log import Evaluation
from coolfusion.swarm.plan import SwarmPlan


@dataclass(frozen=True, slots=True)
class SwarmProgress:
    """The progress of a search: ``done`` of at most ``total`` evaluations, ``num_new`` in this run.

    ``iteration`` is that of ``trial``, both from 0. ``best`` is the best utility so far, over all
    trials.
    """

    trial: int
    iteration: int
    done: int
    total: int
    num_new: int
    best: float | None


@dataclass(frozen=True, slots=True)
class Iteration:
    """The utilities (N,) of an iteration, the best so far, and the number of restarted particles."""

    utilities: tuple[float, ...]
    best: float
    num_restarted: int


@dataclass(frozen=True, slots=True)
class SwarmTrial:
    """One search: its coefficients, its iterations (the first before any move), and why it ended."""

    coefficients: Coefficients
    iterations: tuple[Iteration, ...]
    best: Evaluated
    ended: str


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a search.

    - ``checkpoint``: the folder of ``best``.
    - ``best``: its point has one share for each of ``experts``.
    - ``alone``: the evaluations of the experts themselves, (experts,).
    - ``measures``: names of the parts of a utility.
    - ``num_evaluations``: the number of different points; ``num_new`` of them in this run.
    - ``num_failed``: points whose model does not work.
    - ``seconds``: the sum over all evaluations.
    """

    checkpoint: Path
    experts: tuple[str, ...]
    measures: tuple[str, ...]
    best: Evaluation
    alone: tuple[Evaluation, ...]
    trials: tuple[SwarmTrial, ...]
    plan: SwarmPlan
    num_evaluations: int
    num_failed: int
    num_new: int
    seconds: float

    @property
    def winner(self) -> SwarmTrial:
        """The trial that found the best point."""
        return max(self.trials, key=lambda trial: trial.best.utility)

    @property
    def best_expert(self) -> int:
        """The index of the best expert, the earliest of equals."""
        utilities = [each.utility for each in self.alone]
        return utilities.index(max(utilities))
