"""Numbers that may differ from tensor to tensor: by depth, by name, or not at all."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from coolfusion.documents import shown
from coolfusion.errors import UsageError

# Knots are one number for all tensors, or numbers spread evenly from the first layer to the last
# with linear interpolation. A schedule is knots, or knots by pattern of names: the first match counts.
Knots = float | Sequence[float]
Schedule = Knots | Mapping[str, Knots]

_LAYER = re.compile(r"(.*?)\.(\d+)\.")


def numbers_in(schedule: Schedule) -> Iterator[float]:
    """Every number of a schedule. Raises ``UsageError`` for anything else."""
    parts: list[Any] = list(schedule.values()) if isinstance(schedule, Mapping) else [schedule]
    if not parts or (
        isinstance(schedule, Mapping) and not all(isinstance(p, str) for p in schedule)
    ):
        raise UsageError(
            "A table of numbers goes by patterns of names, of which it needs at least one."
        )
    for part in parts:
        numbers = list(part) if isinstance(part, (list, tuple)) else [part]
        if not numbers or not all(_is_number(number) for number in numbers):
            raise UsageError(
                f"{shown(schedule)} is no number for a tensor. Write a number, a list of numbers from the first layer "
                "to the last, or a table from patterns of names to these."
            )
        yield from numbers


def frozen_schedule(schedule: Schedule) -> Schedule:
    """A copy with tuples for lists, which nobody can change."""
    if isinstance(schedule, Mapping):
        return {pattern: _frozen_knots(knots) for pattern, knots in schedule.items()}
    return _frozen_knots(schedule)


def value_at(schedule: Schedule, name: str, depths: Mapping[str, float]) -> float:
    """The number for a tensor. ``depths`` are those of ``depths_of``.

    Raises ``UsageError`` if no pattern matches, and for a list at a tensor outside the layers.
    """
    knots: Knots | None
    if isinstance(schedule, Mapping):
        knots = next((part for glob, part in schedule.items() if fnmatchcase(name, glob)), None)
    else:
        knots = schedule
    if knots is None:
        raise UsageError(
            f'No pattern of {shown(schedule)} matches tensor "{name}". Add one, or "*" as the last for all the rest.'
        )
    if isinstance(knots, (int, float)):
        return float(knots)
    if name not in depths:
        raise UsageError(
            f'Tensor "{name}" belongs to no layer, so the list {shown(list(knots))} has no number for it. '
            'Write a table, such as {"*.layers.*" = [0, 1], "*" = 0.5}.'
        )
    position = depths[name] * (len(knots) - 1)
    below = min(int(position), len(knots) - 1)
    above = min(below + 1, len(knots) - 1)
    share = position - below
    value = float(knots[below] + share * (knots[above] - knots[below]))
    # The difference of two huge numbers overflows where what lies between them does not.
    return value if math.isfinite(value) else (1 - share) * knots[below] + share * knots[above]


def depths_of(names: Iterable[str]) -> dict[str, float]:
    """The relative depth of each tensor in its stack of layers: 0 is the first, 1 the last.

    The layer is the first number in a name. Tensors without a number are left out.
    """
    layers = {name: (found[1], int(found[2])) for name in names if (found := _LAYER.match(name))}
    last: dict[str, int] = {}
    for stack, layer in layers.values():
        last[stack] = max(layer, last.get(stack, 0))
    return {
        name: layer / last[stack] if last[stack] else 0.0 for name, (stack, layer) in layers.items()
    }


def _frozen_knots(knots: Knots) -> Knots:
    return knots if isinstance(knots, (int, float)) else tuple(knots)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # a whole number may be larger than any float
