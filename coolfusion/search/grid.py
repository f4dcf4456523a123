"""Named values and all their combinations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from coolfusion.errors import UsageError
from coolfusion.search.seam import Point


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
