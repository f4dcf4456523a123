"""Continuous batching: responses at different stages step together, finished ones make room.

Memory is bounded by a budget of tokens: rows of a cache are as long as the longest of them,
so as many rows are decoded side by side as fit at that length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic

from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import Finished
from coolfusion.decoding.state import AnyState
from coolfusion.errors import UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step

if TYPE_CHECKING:
    from coolfusion.decoding.decoder import Decoder

MAX_ROWS = 32
MAX_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much is decoded side by side.

    ``max_rows`` responses at most, and no more than fit into ``max_tokens``: a row counts as
    its prompt and its ``max_new_tokens``, in the tokens of the source that needs most, and
    every row as the longest. One row is always decoded.
    """

    max_rows: int = MAX_ROWS
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(slots=True)
class Response(Generic[AnyState]):
    """A response being decoded: which prompt's it is, and its steps so far."""

    index: int
    state: AnyState
    width: int
    steps: list[Step] = field(default_factory=list)


def decode_each(
    decoder: Decoder[AnyState],
    prompts: Iterable[Prompt],
    request: Request | None,
    limits: BatchLimits,
) -> Iterator[tuple[int, Generation]]:
    """(index, response) pairs in the order they finish; waiting prompts take freed rows.

    Every row goes its own way; whatever rows ask of one source at a time shares a pass.
    """
    waiting = _begun(decoder, prompts, request)
    following = next(waiting, None)
    scheduler = decoder.scheduler()
    rows: dict[int, Response[AnyState]] = {}
    while rows or following is not None:
        while following is not None and _fits(following, rows.values(), limits):
            rows[following.index] = following
            scheduler.start(following.index, decoder.step_async(following.state, len(rows)))
            following = next(waiting, None)
        for finished in scheduler.next_finished():
            row = rows[finished.key]
            row.state, step = timed(finished)
            row.steps.append(step)
            if row.state.stop_reason is None:
                scheduler.start(finished.key, decoder.step_async(row.state, len(rows)))
            else:
                yield finished.key, decoder.finish(row.state, row.steps)
                del rows[finished.key]


def timed(finished: Finished[int, tuple[AnyState, Step]]) -> tuple[AnyState, Step]:
    """A state and its step, which says how long it took."""
    state, step = finished.result
    return state, replace(step, seconds=finished.seconds)


def _begun(
    decoder: Decoder[AnyState], prompts: Iterable[Prompt], request: Request | None
) -> Iterator[Response[AnyState]]:
    for index, prompt in enumerate(prompts):
        state = decoder.start(prompt, request)
        longest = max(len(ids) for ids in state.prompts)
        yield Response(index, state, longest + state.request.max_new_tokens)


def _fits(
    row: Response[AnyState], rows: Collection[Response[AnyState]], limits: BatchLimits
) -> bool:
    if not rows:
        return True
    widest = max(row.width, *(other.width for other in rows))
    return len(rows) < limits.max_rows and (len(rows) + 1) * widest <= limits.max_tokens
