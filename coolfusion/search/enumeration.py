"""Searches that know from the start what they will ask: all of a grid, or random points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coolfusion.errors import UsageError
from coolfusion.search.grid import Grid
from coolfusion.search.seam import Evaluated, Point, better, checked


@dataclass(frozen=True, slots=True)
class Enumeration:
    """Given points in their order, ``batch_size`` at a time."""

    points: tuple[Point, ...]
    batch_size: int = 1
    num_told: int = 0
    best: Evaluated | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be at least 1.")

    def ask(self) -> tuple[Point, ...]:
        """The next points."""
        return self.points[self.num_told : self.num_told + self.batch_size]

    def tell(self, utilities: Sequence[float]) -> Enumeration:
        """The search after these utilities. Raises ``UsageError`` as ``Search`` says."""
        points = self.ask()
        values = checked(points, utilities)
        if not points:
            return self
        return replace(
            self,
            num_told=self.num_told + len(points),
            best=better(self.best, points, values),
        )


def grid_search(grid: Grid, *, batch_size: int = 1) -> Enumeration:
    """Every point of a grid."""
    return Enumeration(tuple(grid.point(index) for index in range(len(grid))), batch_size)


def random_search(grid: Grid, count: int, *, seed: int, batch_size: int = 1) -> Enumeration:
    """``count`` different points of a grid, in random order (Bergstra and Bengio 2012).

    Raises ``UsageError`` for more points than there are, and below 1.
    """
    if not 1 <= count <= len(grid):
        raise UsageError(
            f"{count} points of a grid of {len(grid)} were asked for. Ask for 1 to {len(grid)}."
        )
    order = generator(seed).permutation(len(grid))[:count]
    return Enumeration(tuple(grid.point(int(index)) for index in order), batch_size)


def uniform_search(
    low: Sequence[float], high: Sequence[float], count: int, *, seed: int, batch_size: int = 1
) -> Enumeration:
    """``count`` uniformly random points of the box from ``low`` (d,) to ``high`` (d,)."""
    if len(low) != len(high) or not low or any(a > b for a, b in zip(low, high, strict=True)):
        raise UsageError(
            f"{list(low)} to {list(high)} is no box. Give as many lower as upper ends, none above its other."
        )
    if count < 1:
        raise UsageError(f"{count} points were asked for. Ask for at least 1.")
    drawn = generator(seed).uniform(low, high, (count, len(low)))
    return Enumeration(tuple(tuple(map(float, row)) for row in drawn), batch_size)


def generator(*seed: int) -> np.random.Generator:
    """Random numbers that follow from a seed alone. Raises ``UsageError`` below 0."""
    if min(seed) < 0:
        raise UsageError(f"The seed is {min(seed)}; it must be 0 or above.")
    return np.random.default_rng(list(seed))
