"""The seam of searching: points are asked for, and told how good they are.

A search is a value. ``ask`` and ``tell`` are functions of it and of their arguments, so the
same seed and the same utilities give the same search, and a search that was cut off is had
back by telling it again what is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
