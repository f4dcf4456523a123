"""Continuous batching: responses at different stages step together, finished ones make room.

Memory is bounded by a budget of tokens: rows of a cache are as long as the longest of them,
so as many rows are decoded side by side as fit at that length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import Over, Scheduler, Talk
from coolfusion.errors import UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step, StopReason

MAX_ROWS = 32
MAX_TOKENS = 65_536


class Progress(Protocol):
    """What is needed of a response's state; ``prompts`` has the ids of every source."""

    @property
    def request(self) -> Request:
        """How far it may go."""
        ...

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """What it answers."""
        ...

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it is over, if it is."""
        ...

    @property
    def stop_string(self) -> str | None:
        """What stopped it, if a string did."""
        ...


State = TypeVar("State", bound=Progress)


class Stepper(Protocol[State]):
    """What is needed of a decoder."""

    def start(self, prompt: Prompt, request: Request | None = None) -> State:
        """A state with nothing said yet."""
        ...

    def scheduler(self) -> Scheduler[int, tuple[State, Step]]:
        """What answers the questions that steps have for the sources."""
        ...

    def stepping(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Step]]:
        """One step as a conversation with the sources."""
        ...

    def finish(self, state: State, steps: Sequence[Step]) -> Generation:
        """The response that a state and its steps make up."""
        ...


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
class Response(Generic[State]):
    """A response being decoded: which prompt's it is, and its steps so far."""

    index: int
    state: State
    width: int
    steps: list[Step] = field(default_factory=list)


def decode_each(
    decoder: Stepper[State], prompts: Iterable[Prompt], request: Request | None, limits: BatchLimits
) -> Iterator[tuple[int, Generation]]:
    """(index, response) pairs in the order they finish; waiting prompts take freed rows.

    Every row goes its own way; whatever rows ask of one source at a time shares a pass.
    """
    waiting = _begun(decoder, prompts, request)
    following = next(waiting, None)
    rounds = decoder.scheduler()
    rows: dict[int, Response[State]] = {}
    while rows or following is not None:
        while following is not None and _fits(following, rows.values(), limits):
            rows[following.index] = following
            rounds.begin(following.index, decoder.stepping(following.state, len(rows)))
            following = next(waiting, None)
        for over in rounds.turn():
            row = rows[over.key]
            row.state, step = timed(over)
            row.steps.append(step)
            if row.state.stop_reason is None:
                rounds.begin(over.key, decoder.stepping(row.state, len(rows)))
            else:
                yield over.key, decoder.finish(row.state, row.steps)
                del rows[over.key]


def timed(over: Over[int, tuple[State, Step]]) -> tuple[State, Step]:
    """A state and its step, which says how long it took."""
    state, step = over.result
    return state, replace(step, seconds=over.seconds)


def _begun(
    decoder: Stepper[State], prompts: Iterable[Prompt], request: Request | None
) -> Iterator[Response[State]]:
    for index, prompt in enumerate(prompts):
        state = decoder.start(prompt, request)
        longest = max(len(ids) for ids in state.prompts)
        yield Response(index, state, longest + state.request.max_new_tokens)


def _fits(row: Response[State], rows: Collection[Response[State]], limits: BatchLimits) -> bool:
    if not rows:
        return True
    widest = max(row.width, *(other.width for other in rows))
    return len(rows) < limits.max_rows and (len(rows) + 1) * widest <= limits.max_tokens
