"""What of a response may be shown: everything that no stop string can still take back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
