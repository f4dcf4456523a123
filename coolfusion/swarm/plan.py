"""The plan of a search: its particles, their update, and its end."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from coolfusion.checks.arguments import checked_fields
from coolfusion.errors import UsageError
from coolfusion.search import (
    PUBLISHED_GRID,
    Coefficients,
    Enumeration,
    Grid,
    Limits,
    ParticleSwarm,
    Point,
    corners,
    crossover,
    random_search,
)
from coolfusion.types import Floats


@dataclass(frozen=True, slots=True)
@checked_fields
class SwarmPlan:
    """Settings of a search, which may change between resumed runs.

    - ``num_particles``: N.
    - ``reach``: that of the crossover.
    - ``trials``: the number of searches, each with its own coefficients.
    - ``coefficients``: those of a single trial.
    - ``grid``: with more trials, coefficients are random points of it, by their names.

    All trials start at the same positions. Raises ``UsageError`` for settings that allow no
    search.
    """

    num_particles: int = 20
    reach: float = 1.0
    coefficients: Coefficients = field(default_factory=Coefficients)
    limits: Limits = field(default_factory=Limits)
    trials: int = 1
    grid: Grid = PUBLISHED_GRID
    seed: int = 0

    def __post_init__(self) -> None:
        known = [each.name for each in fields(Coefficients)]
        unknown = next((name for name in self.grid.axes if name not in known), None)
        if unknown is not None:
            raise UsageError(f"The grid names {unknown}; it may name {', '.join(known)}.")
        for point in self.outer().points:
            self.setting(point)

    def outer(self) -> Enumeration:
        """The search over coefficients: points of ``grid``, or one empty point for 1 trial."""
        if self.trials == 1:
            return Enumeration(((),))
        return random_search(self.grid, self.trials, seed=self.seed)

    def setting(self, point: Point) -> Coefficients:
        """The coefficients of a point of ``outer``."""
        if not point:
            return self.coefficients
        return replace(self.coefficients, **self.grid.named(point))

    def start(self, num_experts: int) -> Floats:
        """The first positions (N, experts): the experts, then crossovers of random pairs."""
        return crossover(corners(num_experts), self.num_particles, seed=self.seed, reach=self.reach)

    def swarm(self, trial: int, coefficients: Coefficients, num_experts: int) -> ParticleSwarm:
        """The search of a trial, counted from 0."""
        return ParticleSwarm.start(
            self.start(num_experts),
            seed=(self.seed, trial),
            coefficients=coefficients,
            limits=self.limits,
        )

    @property
    def most_evaluations(self) -> int:
        """The number of evaluations if no trial ends early."""
        return self.num_particles * (self.trials * self.limits.max_iterations + 1)
