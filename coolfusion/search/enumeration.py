"""The interface of a search, and searches over a fixed list of points: a grid, or random points.

A search is a value, and ``ask`` and ``tell`` are pure functions. The same seed and utilities give
the same search. So an interrupted search is restored by telling it the known utilities again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from coolfusion.checks.arguments import check_setting, checked, checked_fields
from coolfusion.errors import UsageError
from coolfusion.types import Floats

# Coordinates of one candidate. Equal points are the same candidate and have one utility.
Point = tuple[float, ...]
S = TypeVar("S", bound="Search")

MAX_POINTS = 10**6  # drawn at once


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A point and its utility; higher is better, minus infinity for a point that does not work."""

    point: Point
    utility: float


class Search(Protocol):
    """The interface of every search."""

    @property
    def best(self) -> Evaluated | None:
        """The best point so far, the earliest of equals. None before the first utilities."""

    def ask(self) -> tuple[Point, ...]:
        """The points to evaluate now, in any order; empty when the search is over."""

    def tell(self: S, utilities: Sequence[float]) -> S:
        """The search after the utilities of the points of ``ask()``, in their order.

        Raises ``UsageError`` for a wrong number of utilities, for NaN and for infinity.
        """


@checked
def run(search: S, evaluate: Callable[[tuple[Point, ...]], Sequence[float]]) -> S:
    """Evaluate a search's points until it has no more, and return its last state."""
    while points := search.ask():
        search = search.tell(evaluate(points))
    return search


def checked_values(points: Sequence[Point], utilities: Sequence[float]) -> Floats:
    """Utilities (points,) as an array. Raises ``UsageError`` as ``Search.tell`` does."""
    if len(points) != len(utilities):
        raise UsageError(
            f"There are {len(points)} points to evaluate, but {len(utilities)} utilities were given. Give one each, in order."
        )
    for point, utility in zip(points, utilities, strict=True):
        if math.isnan(utility) or utility == math.inf:
            raise UsageError(
                f"The utility of {point} is {utility}, which cannot be compared. Give a number, or minus "
                "infinity for a point that does not work."
            )
    return np.array(utilities, dtype=np.float64)


def better(best: Evaluated | None, points: Sequence[Point], utilities: Floats) -> Evaluated:
    """The best of the known point and at least one new one; the known one wins a tie."""
    top = int(np.argmax(utilities))
    if best is not None and best.utility >= utilities[top]:
        return best
    return Evaluated(points[top], float(utilities[top]))


@dataclass(frozen=True, slots=True)
@checked_fields
class Grid:
    """Values by name. A point has one value of each name, in the order of the names.

    Raises ``UsageError`` for no names and for a name without values.
    """

    axes: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        empty = next((name for name, values in self.axes.items() if not values), None)
        if not self.axes or empty is not None:
            raise UsageError(
                f"A grid has no values for {empty or 'anything'}, so it has no points. Give axes with at least one value each."
            )

    def __len__(self) -> int:
        """The number of points."""
        return math.prod(len(values) for values in self.axes.values())

    def point(self, index: int) -> Point:
        """Point number ``index`` (from 0); values of the last name change fastest.

        Raises ``UsageError`` for other numbers.
        """
        if not 0 <= index < len(self):
            raise UsageError(
                f"A grid of {len(self)} points has no point {index}. Use 0 to {len(self) - 1}."
            )
        reversed_point = []
        for values in reversed(list(self.axes.values())):
            index, place = divmod(index, len(values))
            reversed_point.append(values[place])
        return tuple(reversed(reversed_point))

    def named(self, point: Point) -> dict[str, float]:
        """A point's values by name."""
        return dict(zip(self.axes, point, strict=True))


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A search over given points in their order, ``batch_size`` at a time."""

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
        """The search after these utilities. Raises ``UsageError`` as ``Search.tell`` does."""
        points = self.ask()
        values = checked_values(points, utilities)
        if not points:
            return self
        return replace(
            self,
            num_told=self.num_told + len(points),
            best=better(self.best, points, values),
        )


@checked
def grid_search(grid: Grid, *, batch_size: int = 1) -> Enumeration:
    """Every point of a grid."""
    return Enumeration(tuple(grid.point(index) for index in range(len(grid))), batch_size)


@checked
def random_search(grid: Grid, count: int, *, seed: int, batch_size: int = 1) -> Enumeration:
    """``count`` different points of a grid, in random order (Bergstra and Bengio 2012).

    Raises ``UsageError`` for a count below 1 or above the size of the grid.
    """
    if not 1 <= count <= len(grid):
        raise UsageError(
            f"{count} points of a grid of {len(grid)} were requested. Use 1 to {len(grid)}."
        )
    order = generator(seed).permutation(len(grid))[:count]
    return Enumeration(tuple(grid.point(int(index)) for index in order), batch_size)


@checked
def uniform_search(
    low: Sequence[float], high: Sequence[float], count: int, *, seed: int, batch_size: int = 1
) -> Enumeration:
    """``count`` uniformly random points of the box from ``low`` (d,) to ``high`` (d,).

    Raises ``UsageError`` for an empty box and for a count below 1.
    """
    if len(low) != len(high) or not low or any(a > b for a, b in zip(low, high, strict=True)):
        raise UsageError(
            f"{list(low)} to {list(high)}, low to high, is no box. Give as many lower as upper ends, none above its other."
        )
    if count < 1:
        raise UsageError(f"{count} points were requested. Use at least 1.")
    check_setting(count <= MAX_POINTS, "count", count, f"at most {MAX_POINTS}")
    drawn = generator(seed).uniform(low, high, (count, len(low)))
    return Enumeration(tuple(tuple(map(float, row)) for row in drawn), batch_size)


def generator(*seed: int) -> np.random.Generator:
    """A random generator that depends on the seed alone. Raises ``UsageError`` below 0."""
    if min(seed) < 0:
        raise UsageError(f"The seed is {min(seed)}; it must be 0 or above.")
    return np.random.default_rng(list(seed))
