"""Particle swarm search as a value, by the published update of Model Swarms.

All particles of an iteration move by the same global best and worst, and are then evaluated
together. Random factors follow from the seed and the iteration alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coolfusion.errors import UsageError
from coolfusion.search.enumeration import generator
from coolfusion.search.seam import Evaluated, Point, better, checked
from coolfusion.search.start import towards_another
from coolfusion.search.update import Coefficients, next_velocities, step_length_at
from coolfusion.types import Floats


@dataclass(frozen=True, slots=True)
class Limits:
    """When a particle starts again and when the search ends, in iterations.

    ``restart``: without a new personal best, after which a particle goes back to it and stands
    still; it does so before every move until it has improved. ``patience``: without a new
    global best. Raises ``UsageError`` below 1 (``max_iterations``: below 0).
    """

    max_iterations: int = 50
    patience: int = 10
    restart: int = 5

    def __post_init__(self) -> None:
        for name, least in (("max_iterations", 0), ("patience", 1), ("restart", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {least}.")


@dataclass(frozen=True, slots=True, eq=False)
class ParticleSwarm:
    """A swarm at one moment: particles that wait for their utilities. Made by ``start``.

    ``positions``, ``velocities``, ``personal_bests``: (N, d); ``personal_utilities`` and
    ``stagnant`` (iterations since the personal best): (N,). ``iteration`` counts moves;
    ``since_improved`` iterations since the global best; ``restarted``: (N,), which particles
    started again in the last move. ``bounds``: positions are kept within; None: anywhere.
    """

    coefficients: Coefficients
    limits: Limits
    seed: tuple[int, ...]
    positions: Floats
    velocities: Floats
    personal_bests: Floats
    personal_utilities: Floats
    stagnant: NDArray[np.int64]
    restarted: NDArray[np.bool_]
    bounds: tuple[float, float] | None = None
    iteration: int = 0
    since_improved: int = 0
    best: Evaluated | None = None
    worst: Evaluated | None = None
    ended: str | None = None

    @classmethod
    def start(
        cls,
        positions: Floats,
        *,
        seed: Sequence[int],
        coefficients: Coefficients | None = None,
        limits: Limits | None = None,
        bounds: tuple[float, float] | None = None,
    ) -> ParticleSwarm:
        """A swarm at ``positions`` (N, d), each particle headed for a random other one.

        Raises ``UsageError`` for no particles, and for positions that are not finite numbers.
        """
        if positions.ndim != 2 or positions.size == 0 or not np.isfinite(positions).all():
            raise UsageError(
                f"A swarm cannot start at positions of shape {positions.shape}. Give a finite (particles, dimensions)."
            )
        return cls(
            coefficients or Coefficients(),
            limits or Limits(),
            tuple(seed),
            positions,
            towards_another(positions, *seed, 0),
            positions,
            np.full(len(positions), -np.inf),
            np.zeros(len(positions), dtype=np.int64),
            np.zeros(len(positions), dtype=np.bool_),
            bounds,
        )

    def ask(self) -> tuple[Point, ...]:
        """Where the particles are, (N,); nothing once the search is over."""
        return () if self.ended else self._points

    @property
    def _points(self) -> tuple[Point, ...]:
        return tuple(tuple(map(float, row)) for row in self.positions)

    def tell(self, utilities: Sequence[float]) -> ParticleSwarm:
        """The swarm after these utilities, moved on. Raises ``UsageError`` as ``Search`` says."""
        points = self.ask()
        values = checked(points, utilities)
        if not points:
            return self
        # The first utilities count as personal bests even where nothing works.
        improved = (
            values > self.personal_utilities if self.iteration else np.full(len(values), True)
        )
        best = better(self.best, points, values)
        lowest = better(_negated(self.worst), points, -values)
        told = replace(
            self,
            personal_bests=np.where(improved[:, None], self.positions, self.personal_bests),
            personal_utilities=np.where(improved, values, self.personal_utilities),
            stagnant=np.where(improved, 0, self.stagnant + 1),
            since_improved=self.since_improved + 1 if best is self.best else 0,
            best=best,
            worst=_negated(lowest),
        )
        if told.since_improved >= self.limits.patience:
            return replace(told, ended="patience")
        if told.iteration >= self.limits.max_iterations:
            return replace(told, ended="iterations")
        return told._moved()

    def _moved(self) -> ParticleSwarm:
        if self.best is None or self.worst is None:
            return self
        iteration = self.iteration + 1
        restarted = self.stagnant >= self.limits.restart
        positions = np.where(restarted[:, None], self.personal_bests, self.positions)
        factors = 1 - generator(*self.seed, iteration).random((len(positions), 4))  # never all 0
        velocities = next_velocities(
            positions=positions,
            velocities=np.where(restarted[:, None], 0.0, self.velocities),
            personal_bests=self.personal_bests,
            global_best=np.array(self.best.point),
            global_worst=np.array(self.worst.point),
            factors=factors,
            coefficients=self.coefficients,
        )
        positions = positions + step_length_at(iteration, self.coefficients) * velocities
        if self.bounds is not None:
            positions = np.clip(positions, *self.bounds)
        return replace(
            self,
            positions=positions,
            velocities=velocities,
            restarted=restarted,
            iteration=iteration,
        )


def _negated(known: Evaluated | None) -> Evaluated | None:
    return None if known is None else Evaluated(known.point, -known.utility)
