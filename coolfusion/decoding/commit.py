"""The end of a step: stop strings, what may be shown, and the state that follows.

Everything may be shown that no stop string can still take back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coolfusion.decoding.state import AnyState, ResponseState
from coolfusion.errors import SourceError
from coolfusion.types import Generation, Step, StopReason


@dataclass(frozen=True, slots=True)
class Emission:
    """Show the text up to ``end``; ``stop_string`` is the one that was found there, if any."""

    end: int
    stop_string: str | None


def emit(text: str, num_shown: int, num_new: int, stop: Sequence[str], *, final: bool) -> Emission:
    """Decide how much of ``text`` to show after its last ``num_new`` characters arrived.

    The stop string that is complete first wins (the longest, if two are), however the text
    arrives in pieces, and is not shown. Until a response is ``final``, an ending
    that could grow into a stop string is held back.
    """
    if not stop:
        return Emission(len(text), None)
    reach = max(len(string) for string in stop) - 1
    start = max(num_shown, len(text) - num_new - reach)
    found = [(text.find(string, start), string) for string in stop]
    hits = [hit for hit in found if hit[0] >= 0]
    if hits:
        position, string = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
        return Emission(position, string)
    if final:
        return Emission(len(text), None)
    return Emission(len(text) - _held_back(text[num_shown:], stop), None)


def _held_back(text: str, stop: Sequence[str]) -> int:
    """Length of the longest ending of ``text`` that begins a stop string."""
    longest = max(len(string) for string in stop) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return length
    return 0


def finish_step(state: AnyState, step: Step, stop: StopReason | None) -> tuple[AnyState, Step]:
    """Show what may be shown once ``step.segment`` is part of the text, and close the step.

    ``stop`` says why the response is over (None: it goes on). A stop string in the text
    overrules it. The step gets its number, the text to show and whether it ends the response.
    """
    shown = emit(
        state.text, state.num_shown, len(step.segment), state.request.stop, final=stop is not None
    )
    if shown.stop_string is not None:
        stop = StopReason.STOP_STRING
    step = replace(
        step,
        index=state.num_steps,
        text=state.text[state.num_shown : shown.end],
        ends=stop is StopReason.END,
    )
    state = replace(
        state,
        text=state.text if shown.stop_string is None else state.text[: shown.end],
        num_shown=shown.end,
        num_steps=state.num_steps + 1,
        stop_reason=stop,
        stop_string=shown.stop_string,
    )
    return state, step


def interrupted(
    state: ResponseState, sources: tuple[str, ...], error: SourceError, name: str | None = None
) -> SourceError:
    """The error to raise where a response ends by ``error``, of the source ``name``.

    It has the text of the response that was committed before. It is a new one, since several
    responses may end by one error.
    """
    raised = _renewed(error, str(error) if name is None else f'Source "{name}": {error}')
    raised.generation = Generation(state.text, StopReason.INTERRUPTED, None, sources, ())
    return raised


def _renewed(error: SourceError, message: str) -> SourceError:
    """An error of the same type, or of the next above it that is made of a message alone."""
    for kind in type(error).__mro__:
        try:
            renewed = kind(message)
        except Exception:  # a type of the user's own may want anything
            continue
        if isinstance(renewed, SourceError):
            renewed.__cause__ = error
            return renewed
    return error
