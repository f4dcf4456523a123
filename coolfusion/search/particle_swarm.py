"""Particle swarm search as a value, by the published update of Model Swarms.

The update (arXiv 2410.11163, section 2) has these symbols. A particle has position x, velocity v
and personal best p. The swarm has global best g and global worst w. Random factors r are in
(0, 1], phi are coefficients and lambda is the step length:

    C = r_v phi_v + r_p phi_p + r_g phi_g + r_w phi_w
    v <- (r_v phi_v v + r_p phi_p (p - x) + r_g phi_g (g - x) - r_w phi_w (w - x)) / C
    x <- x + lambda v
    lambda <- max(decay lambda, floor)

All particles of an iteration use the same global best and worst, and are then evaluated together.
Random factors depend on the seed and the iteration alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.errors import UsageError
from coolfusion.search.enumeration import (
    Evaluated,
    Grid,
    Point,
    better,
    checked_values,
    generator,
)
from coolfusion.types import Floats


@checked
def corners(count: int) -> Floats:
    """``count`` points (count, count); each has one coordinate of 1, the others are 0."""
    return np.eye(count, dtype=np.float64)


def crossover(parents: Floats, num_particles: int, *, seed: int, reach: float = 1.0) -> Floats:
    """``num_particles`` positions (N, d): the parents (n, d), then t a + (1 - t) b of random pairs.

    t is uniform in (0, ``reach``). In the paper the reach is 1: children lie between their
    parents. In its released code it is 2: half of them lie beyond the first parent. Raises
    ``UsageError`` for fewer particles than parents, fewer than 2 parents, or a reach of 0.
    """
    num_parents = len(parents)
    if num_particles < num_parents:
        raise UsageError(
            f"{num_particles} particles cannot hold {num_parents} experts; every expert starts as one. "
            f"Use at least {num_parents}."
        )
    if num_parents < 2:
        raise UsageError(
            f"A search between experts was given {num_parents}. Give at least 2: it needs pairs."
        )
    if not 0 < reach < np.inf:
        raise UsageError(f"The reach of the crossover is {reach}; it must be above 0.")
    rng = generator(seed)
    num_children = num_particles - num_parents
    first = rng.integers(num_parents, size=num_children)
    second = _another(rng, first, num_parents)
    t = rng.uniform(0, reach, num_children)[:, None]
    children = t * parents[first] + (1 - t) * parents[second]
    return np.concatenate([parents, children]).astype(np.float64)


def towards_another(positions: Floats, *seed: int) -> Floats:
    """Velocities (N, d) from each position to that of a random other; 0 for a single particle."""
    if len(positions) < 2:
        return np.zeros_like(positions)
    other = _another(generator(*seed), np.arange(len(positions)), len(positions))
    headed: Floats = positions[other] - positions
    return headed


def _another(rng: np.random.Generator, own: np.ndarray, count: int) -> np.ndarray:
    """For each number in ``own`` a random different one below ``count``."""
    # One number less is drawn, and those from own on are raised by 1: all others, equally likely.
    drawn = rng.integers(count - 1, size=len(own))
    return np.asarray(drawn + (drawn >= own))


# The values that the paper's random search draws from: 1,350 combinations.
PUBLISHED_GRID = Grid(
    {
        "inertia": (0.1, 0.2, 0.3),
        "cognitive": (0.1, 0.2, 0.3, 0.4, 0.5),
        "social": (0.2, 0.3, 0.4, 0.5, 0.6),
        "repel": (0.01, 0.05, 0.1),
        "step_length": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    }
)


@dataclass(frozen=True, slots=True)
@checked_fields
class Coefficients:
    """The coefficients of an update, and its step length.

    The first four are phi_v, phi_p, phi_g and phi_w. Only their proportions matter. Defaults lie
    in the middle of the published grid. Raises ``UsageError`` for values that allow no step.
    """

    inertia: float = 0.2
    cognitive: float = 0.3
    social: float = 0.4
    repel: float = 0.05
    step_length: float = 0.8
    decay: float = 0.95
    floor: float = 0.1

    def __post_init__(self) -> None:
        for name, value in zip(self.__slots__, self.phi, strict=False):
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value}; it must be 0 or above.")
        if not any(self.phi):
            raise UsageError(
                "inertia, cognitive, social and repel are all 0, so no particle would move. Set one."
            )
        if not 0 < self.step_length < math.inf:
            raise UsageError(f"The step length is {self.step_length}; it must be above 0.")
        if not 0 < self.decay <= 1:
            raise UsageError(
                f"The step length's decay is {self.decay}; it must be above 0 and at most 1."
            )
        if not 0 <= self.floor <= self.step_length:
            raise UsageError(
                f"The step length's floor is {self.floor}; it must lie between 0 and the step length, {self.step_length}."
            )

    @property
    def phi(self) -> tuple[float, float, float, float]:
        """Inertia, cognitive, social and repel coefficient."""
        return (self.inertia, self.cognitive, self.social, self.repel)


def next_velocities(
    *,
    positions: Floats,
    velocities: Floats,
    personal_bests: Floats,
    global_best: Floats,
    global_worst: Floats,
    factors: Floats,
    coefficients: Coefficients,
) -> Floats:
    """Velocities (N, d) after an update.

    ``positions``, ``velocities`` and ``personal_bests``: (N, d); ``global_best`` and
    ``global_worst``: (d,); ``factors``: (N, 4), r_v, r_p, r_g and r_w of each particle.
    """
    weighted = factors * np.array(coefficients.phi)
    # Added in a fixed order: a replayed search must get the same bits.
    total = weighted[:, 0] + weighted[:, 1] + weighted[:, 2] + weighted[:, 3]
    inertia, cognitive, social, repel = (weighted / total[:, None]).T[:, :, None]
    moved: Floats = (
        inertia * velocities
        + cognitive * (personal_bests - positions)
        + social * (global_best - positions)
        - repel * (global_worst - positions)
    )
    return moved


def step_length_at(iteration: int, coefficients: Coefficients) -> float:
    """The step length lambda of an iteration; the first is number 1."""
    decayed = coefficients.step_length * coefficients.decay ** (iteration - 1)
    return max(decayed, coefficients.floor)


@dataclass(frozen=True, slots=True)
@checked_fields
class Limits:
    """When a particle restarts and when the search ends, in iterations.

    After ``restart`` iterations without a new personal best, a particle returns to it with
    velocity 0. It does so before every move until it improves. After ``patience`` iterations
    without a new global best the search ends. Raises ``UsageError`` below 1 (``max_iterations``:
    below 0).
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

    - ``positions``, ``velocities``, ``personal_bests``: (N, d).
    - ``personal_utilities``, ``stagnant`` (iterations since the personal best): (N,).
    - ``restarted``: (N,), the particles that the last move restarted.
    - ``bounds``: the lowest and highest coordinate of positions; None: no limits.
    - ``iteration``: the number of moves.
    - ``since_improved``: iterations since the global best.
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
        """A swarm at ``positions`` (N, d); each particle has the direction of a random other one.

        Raises ``UsageError`` without particles, and for positions that are not finite.
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
        """The positions of the N particles; empty once the search is over."""
        return () if self.ended else self._points

    @property
    def _points(self) -> tuple[Point, ...]:
        return tuple(tuple(map(float, row)) for row in self.positions)

    def tell(self, utilities: Sequence[float]) -> ParticleSwarm:
        """The swarm moved by these utilities. Raises ``UsageError`` as ``Search.tell`` does."""
        points = self.ask()
        values = checked_values(points, utilities)
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
