"""Where a pre-tokenizer's pattern cuts a text of which only the beginning is known.

A match is settled when no text that may follow changes it. Backtracking is followed as an ordered
list of threads, as in Pike's virtual machine. A look-ahead stays with its thread as a condition
until the text decides it. What one character belongs to, the engine of tokenizers is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, final

from coolfusion.tokenization.settling.patterns import Node, NotFollowed, belongs, is_word, parse

MAX_STATES = 20_000  # are remembered; more are worked out anew


@final
class Scanner:
    """Matches of one pattern, found from the left in a text whose end may be open.

    Raises ``NotFollowed`` for patterns with look-behind, back references and the like.
    """

    def __init__(self, pattern: str) -> None:
        self._program = (parse(pattern), ())
        self._states: dict[tuple[Any, ...], Threads] = {}
        self._starts: dict[str, Threads] = {}
        if any(entry[0] == "match" for entry in self._start("").entries):
            raise NotFollowed("a match without characters")

    def segments(self, text: str, begin: int, end: int, *, closed: bool) -> Segments:
        """Matches and gaps of ``text[begin:end]``; ``closed``: no text follows."""
        found: list[tuple[int, int, bool]] = []
        gap = start = begin
        while start < end:
            state, position = self._start(text[start - 1 : start] if start > begin else ""), start
            while state.settled is None and position < end:
                state = state.after(text[position], self)
                position += 1
            if state.settled is None and not closed:
                return Segments(tuple(found), gap, start, state)
            shift = state.at_end() if state.settled is None else state.settled
            if shift is state.FAILED:
                start += 1
                continue
            if gap < start:
                found.append((gap, start, False))
            found.append((start, position + shift, True))
            gap = start = position + shift
        if closed and gap < end:
            found.append((gap, end, False))
            gap = end
        before = text[end - 1 : end] if end > begin else ""
        return Segments(tuple(found), gap, end, self._start(before))

    def _start(self, before: str) -> Threads:
        state = self._starts.get(before)
        if state is None:
            if len(self._starts) >= MAX_STATES:
                self._starts.clear()
            state = self._starts[before] = self.state(_expanded(self._program, (), before))
        return state

    def state(self, entries: Iterable[tuple[Any, ...]]) -> Threads:
        """The state with these entries, the same object each time."""
        key = _first_of_each(entries)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= MAX_STATES:
                self._states.clear()
            state = self._states[key] = Threads(key)
        return state


@dataclass(frozen=True, slots=True)
class Segments:
    """``found`` are settled matches and gaps: start, end, whether it is a match.

    After them comes a gap from ``gap``, and at ``start`` an attempt that has come to ``state``.
    """

    found: tuple[tuple[int, int, bool], ...]
    gap: int
    start: int
    state: Threads


@final
@dataclass(eq=False, slots=True)
class Threads:
    """Threads in the order in which backtracking would try them, and matches among them.

    An entry is ("match", end, conditions) or ("thread", set, continuation, conditions). An end is
    relative to the text read so far. A condition is ("edge", ...) or (negative, entries).
    """

    entries: tuple[tuple[Any, ...], ...]
    settled: int | None = None
    _next: dict[str, Threads] = field(default_factory=dict)

    FAILED = 1  # ends are never positive

    def __post_init__(self) -> None:
        if not self.entries:
            self.settled = self.FAILED
        elif self.entries[0][0] == "match" and not self.entries[0][2]:
            self.settled = self.entries[0][1]

    @property
    def cannot_fail(self) -> bool:
        """Whether there is a match, whatever follows."""
        last = self.entries[-1] if self.entries else ("",)
        return bool(last[0] == "match" and not last[2])

    @property
    def earliest_end(self) -> int:
        """The earliest end, relative to the text so far, that a match may have."""
        return min((entry[1] for entry in self.entries if entry[0] == "match"), default=0)

    def after(self, character: str, scanner: Scanner) -> Threads:
        """The state one character later."""
        state = self._next.get(character)
        if state is None:
            state = scanner.state(_stepped(self.entries, character))
            self._next[character] = state
        return state

    def at_end(self) -> int:
        """The end of the match if no text follows, or ``FAILED``."""
        for entry in self.entries:
            if entry[0] == "match" and all(_holds_at_end(each) for each in entry[2]):
                return int(entry[1])
        return self.FAILED


def _stepped(entries: Iterable[tuple[Any, ...]], character: str) -> Iterator[tuple[Any, ...]]:
    for entry in entries:
        conditions = _conditions_after(entry[-1], character)
        if conditions is None:
            continue
        if entry[0] == "match":
            yield ("match", entry[1] - 1, conditions)
        elif belongs(character, entry[1]):
            yield from _expanded(entry[2], conditions, character)


def _conditions_after(
    conditions: tuple[tuple[Any, ...], ...], character: str
) -> tuple[tuple[Any, ...], ...] | None:
    """The conditions that are still open; None if one of them failed."""
    left = []
    for condition in conditions:
        if condition[0] == "edge":
            if is_word(character) == condition[1]:
                return None
            continue
        negative, entries = condition
        entries = _first_of_each(_stepped(entries, character))
        met = _is_met(entries)
        if met is None:
            left.append((negative, entries))
        elif met == negative:
            return None
    return tuple(dict.fromkeys(left))


def _is_met(entries: tuple[tuple[Any, ...], ...]) -> bool | None:
    """Whether a look-ahead has matched; None: not settled."""
    if any(entry[0] == "match" and not entry[2] for entry in entries):
        return True
    return None if entries else False


def _holds_at_end(condition: tuple[Any, ...]) -> bool:
    if condition[0] == "edge":
        return bool(condition[1])
    negative, entries = condition
    met = any(e[0] == "match" and all(map(_holds_at_end, e[2])) for e in entries)
    return bool(met != negative)


def _first_of_each(entries: Iterable[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """Entries without repetitions, up to a match that nothing behind it can overrule."""
    kept: dict[tuple[Any, ...], None] = {}
    for entry in entries:
        kept[entry] = None
        if entry[0] == "match" and not entry[2]:
            break
    return tuple(kept)


def _expanded(
    continuation: Node, conditions: tuple[tuple[Any, ...], ...], before: str
) -> Iterator[tuple[Any, ...]]:
    """The threads that a continuation stands for, in order; ``before`` is the last character."""
    if not continuation:
        yield ("match", 0, conditions)
        return
    node, rest = continuation
    kind = node[0]
    if kind == "set":
        yield ("thread", node[1], rest, conditions)
    elif kind == "alternatives":
        for each in node[1]:
            yield from _expanded((each, rest), conditions, before)
    elif kind == "sequence":
        for each in reversed(node[1]):
            rest = (each, rest)
        yield from _expanded(rest, conditions, before)
    elif kind == "repeat":
        for each in _repeated(node, rest):
            yield from _expanded(each, conditions, before)
    elif kind == "word edge":
        # Met if exactly one side is a word's; the side before is known.
        yield from _expanded(
            rest, (*conditions, ("edge", bool(before) and is_word(before))), before
        )
    else:
        _, inner, negative = node
        entries = _first_of_each(_expanded((inner, ()), (), before))
        met = _is_met(entries)
        if met is None:
            yield from _expanded(rest, (*conditions, (negative, entries)), before)
        elif met != negative:
            yield from _expanded(rest, conditions, before)


def _repeated(node: Node, rest: Node) -> list[Node]:
    """What a repetition may go on with: once more, or what follows it."""
    _, inner, low, high, how = node
    if high == 0:
        return [rest]
    more = (
        inner,
        (("repeat", inner, max(0, low - 1), None if high is None else high - 1, how), rest),
    )
    if low:
        return [more]
    if how == "possessive":
        return [more, (("look", inner, True), rest)]
    return [more, rest] if how == "greedy" else [rest, more]
