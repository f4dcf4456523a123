"""The split of a task: rows to choose a setting on, and held-out rows to test it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coolfusion.checks.arguments import checked
from coolfusion.errors import UsageError
from coolfusion.evaluation.tasks import Row, Task


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of a task, each in one part only, in the task's order."""

    tuning: tuple[Row, ...]
    held_out: tuple[Row, ...]


@checked
def split_rows(task: Task, held_out: float = 0.5, seed: int = 0) -> Split:
    """Hold out a random share of the rows.

    ``held_out`` is at least 0 (none) and below 1. Above 0 both parts have at least one row. Raises
    ``UsageError`` for other shares, for a negative seed, and for a task too short to split.
    """
    if not 0 <= held_out < 1:
        raise UsageError(
            f"The held-out share is {held_out}; it must be at least 0 and below 1, so that rows are "
            "left to tune on."
        )
    if seed < 0:
        raise UsageError(f"The seed is {seed}; it must be 0 or above.")
    count = len(task.rows)
    if held_out > 0 and count < 2:
        raise UsageError(
            f'The task "{task.name}" has {count} row, which cannot be tuned on and held out. Add '
            "rows, or hold out 0."
        )
    num_held_out = min(count - 1, max(1, round(held_out * count))) if held_out > 0 else 0
    chosen = set(np.random.default_rng(seed).permutation(count)[:num_held_out].tolist())
    return Split(
        tuple(row for number, row in enumerate(task.rows) if number not in chosen),
        tuple(row for number, row in enumerate(task.rows) if number in chosen),
    )
