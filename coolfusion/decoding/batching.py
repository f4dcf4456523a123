"""Continuous batching: responses at different stages step together, finished ones make room.

A response that fails ends alone, with its error. A budget of tokens bounds the memory. All rows of a KV cache are as long as the longest, so it
holds as many rows as fit at that length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeAlias

from coolfusion.checks.arguments import checked_fields
from coolfusion.decoding.scheduler import Finished, Scheduler, Task
from coolfusion.decoding.state import AnyState
from coolfusion.errors import UsageError
from coolfusion.types import Step

MAX_ROWS = 32
MAX_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
@checked_fields
class BatchLimits:
    """How much is decoded side by side.

    ``max_rows`` responses at most, and no more than fit into ``max_tokens``. A row counts as its
    prompt, its text so far and what is left of its ``max_new_tokens``. The first two count in the
    tokens of the source that needs most, the last in those of the one that needs fewest. Every row
    counts as the longest. One row is always decoded.
    """

    max_rows: int = MAX_ROWS
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(slots=True)
class Response(Generic[AnyState]):
    """A response being decoded: the number of its prompt, its state and its steps so far.

    ``error`` is what ended it, if it failed; ``state`` and ``steps`` are then those before.
    """

    index: int
    state: AnyState
    steps: list[Step] = field(default_factory=list)
    error: Exception | None = None

    @property
    def width(self) -> int:
        """How many tokens it counts as, by what is known of it (see ``BatchLimits``)."""
        state = self.state
        counts = state.num_tokens or (0,) * len(state.prompts)
        longest = max(len(ids) + num for ids, num in zip(state.prompts, counts, strict=True))
        return longest + state.request.max_new_tokens - min(counts)


# One step of a response as a coroutine, given how many responses share forward passes.
StepTask: TypeAlias = Callable[[AnyState, int], Task[tuple[AnyState, Step]]]


def decode_each(
    states: Iterable[AnyState],
    step: StepTask[AnyState],
    scheduler: Scheduler[int, tuple[AnyState, Step]],
    limits: BatchLimits,
) -> Iterator[Response[AnyState]]:
    """Responses that begin at ``states``, in the order they finish.

    A waiting state takes the next freed row. Whatever rows ask of one source at a time shares a
    forward pass.
    """
    waiting = _waiting(states)
    following = next(waiting, None)
    rows: dict[int, Response[AnyState]] = {}
    while rows or following is not None:
        while following is not None and _fits(following, rows.values(), limits):
            rows[following.index] = following
            scheduler.start(following.index, step(following.state, len(rows)))
            following = next(waiting, None)
        for finished in scheduler.next_finished():
            row, stepped = rows[finished.key], timed(finished)
            if isinstance(stepped, Exception):
                row.error = stepped
            else:
                row.state, record = stepped
                row.steps.append(record)
            if row.error is None and row.state.stop_reason is None:
                scheduler.start(finished.key, step(row.state, len(rows)))
            else:
                yield rows.pop(finished.key)


def timed(
    finished: Finished[int, tuple[AnyState, Step]],
) -> tuple[AnyState, Step] | Exception:
    """A state and its step, which says how long it took; or the error of a step that failed."""
    if isinstance(finished.result, Exception):
        return finished.result
    state, step = finished.result
    return state, replace(step, seconds=finished.seconds)


def _waiting(states: Iterable[AnyState]) -> Iterator[Response[AnyState]]:
    for index, state in enumerate(states):
        yield Response(index, state)


def _fits(
    row: Response[AnyState], rows: Collection[Response[AnyState]], limits: BatchLimits
) -> bool:
    if not rows:
        return True
    widest = max(row.width, *(other.width for other in rows))
    return len(rows) < limits.max_rows and (len(rows) + 1) * widest <= limits.max_tokens
