"""The seam of searching: points are asked for, and told how good they are.

A search is a value. ``ask`` and ``tell`` are functions of it and of their arguments, so the
same seed and the same utilities give the same search, and a search that was cut off is had
back by telling it again what is known.

Named values and all their combinations.

Searches that know from the start what they will ask: all of a grid, or random points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from coolfusion.errors import UsageError
from coolfusion.types import Floats

# Coordinates of one candidate: equal points are one candidate, and have one utility.
Point = tuple[float, ...]
S = TypeVar("S", bound="Search")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A point and its utility: higher is better, minus infinity for what does not work."""

    point: Point
    utility: float


class Search(Protocol):
    """What every search offers."""

    @property
    def best(self) -> Evaluated | None:
        """The best point so far, the earliest of equals; None before the first utilities."""

    def ask(self) -> tuple[Point, ...]:
        """The points to be evaluated now, in any order; none when the search is over."""

    def tell(self: S, utilities: Sequence[float]) -> S:
        """The search once these are the utilities of ``ask()``'s points, in their order.

        Raises ``UsageError`` for a wrong number of them, for NaN and for infinity.
        """


def run(search: S, evaluate: Callable[[tuple[Point, ...]], Sequence[float]]) -> S:
    """Evaluate what a search asks for until it asks no more, and return its last state."""
    while points := search.ask():
        search = search.tell(evaluate(points))
    return search


def checked(points: Sequence[Point], utilities: Sequence[float]) -> Floats:
    """Utilities (points,) as an array. Raises ``UsageError`` for what no search can use."""
    if len(points) != len(utilities):
        raise UsageError(
            f"{len(points)} points were asked about and {len(utilities)} utilities told. Give one each, in order."
        )
    for point, utility in zip(points, utilities, strict=True):
        if math.isnan(utility) or utility == math.inf:
            raise UsageError(
                f"The utility of {point} is {utility}, which cannot be compared. Give a number, or minus "
                "infinity for a point that does not work."
            )
    return np.array(utilities, dtype=np.float64)


def better(best: Evaluated | None, points: Sequence[Point], utilities: Floats) -> Evaluated:
    """The best of what was known and what is new, which has at least one; earlier ones stay."""
    top = int(np.argmax(utilities))
    if best is not None and best.utility >= utilities[top]:
        return best
    return Evaluated(points[top], float(utilities[top]))


@dataclass(frozen=True, slots=True)
class Grid:
    """Values by name. A point of it takes one value of each, in the order of the names.

    Raises ``UsageError`` for no names and for a name without values.
    """

    axes: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        empty = next((name for name, values in self.axes.items() if not values), None)
        if not self.axes or empty is not None:
            raise UsageError(
                f"A grid has no values for {empty or 'anything'}, so it has no points. Give each at least one."
            )

    def __len__(self) -> int:
        """How many points there are."""
        return math.prod(len(values) for values in self.axes.values())

    def point(self, index: int) -> Point:
        """The point with a number from 0; the last name's values change fastest."""
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
            f"{count} points of a grid of {len(grid)} were asked for. ModelRequest for 1 to {len(grid)}."
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
        raise UsageError(f"{count} points were asked for. ModelRequest for at least 1.")
    drawn = generator(seed).uniform(low, high, (count, len(low)))
    return Enumeration(tuple(tuple(map(float, row)) for row in drawn), batch_size)


def generator(*seed: int) -> np.random.Generator:
    """Random numbers that follow from a seed alone. Raises ``UsageError`` below 0."""
    if min(seed) < 0:
        raise UsageError(f"The seed is {min(seed)}; it must be 0 or above.")
    return np.random.default_rng(list(seed))
