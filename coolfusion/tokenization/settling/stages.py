"""The stages that cut a text into the parts which a tokenizer's model sees, followed with an open end.

A stage cuts every part that the stage before it made. It says which cuts no later text can change,
and keeps what it needs to go on. Two scans that have come to the same point go on alike.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol, final

import tokenizers

from coolfusion.tokenization.settling.patterns import (
    WORD,
    NotFollowed,
    atoms,
    belongs,
    literal,
    parse,
)
from coolfusion.tokenization.settling.scanner import Scanner


@dataclass(frozen=True, slots=True)
class Point:
    """How far a stage has come: an attempt that began at ``start``, and what is left of it.

    ``is_certain``: whatever follows, the attempt ends in a way that does not depend on its start.
    """

    start: int
    state: Any = None
    is_certain: bool = False

    def goes_on_like(self, other: Point) -> bool:
        """Whether the stage does the same from here on, whatever follows."""
        return self.state == other.state and (self.is_certain or self.start == other.start)


@dataclass(frozen=True, slots=True)
class Cuts:
    """Settled ``cuts`` strictly inside a part, and how its open end stands.

    The last part reaches at least to ``sure``. ``whole`` are parts that later stages leave alone.
    """

    cuts: tuple[int, ...]
    sure: int
    point: Point
    whole: frozenset[int] = frozenset()


class Stage(Protocol):
    """One stage. ``closed``: the part ends at ``end``, and no text follows."""

    def scan(self, text: str, begin: int, end: int, *, closed: bool) -> Cuts:
        """Cut ``text[begin:end]``."""
        ...


class PreTokenizing(Stage, Protocol):
    """A stage of a pre-tokenizer."""

    def tells(self, character: str) -> Hashable:
        """What its cuts depend on of a character."""
        ...


@final
class PatternStage:
    """Cuts at the matches of a pattern, joined to their neighbours as ``behavior`` says."""

    def __init__(self, pattern: str, behavior: str, *, invert: bool) -> None:
        self._scanner = Scanner(pattern)
        self._sets = tuple(dict.fromkeys((*atoms(parse(pattern)), WORD)))
        self._behavior = behavior
        self._invert = invert

    def scan(self, text: str, begin: int, end: int, *, closed: bool) -> Cuts:
        """Cut ``text[begin:end]``."""
        segments = self._scanner.segments(text, begin, end, closed=closed)
        parts = [(first, last, match != self._invert) for first, last, match in segments.found]
        state, sure = segments.state, segments.start
        if not closed and segments.gap < segments.start:
            parts.append((segments.gap, segments.start, self._invert))
        if not closed and state.cannot_fail:
            parts.append((segments.start, end, not self._invert))
            sure = end + state.earliest_end
        cuts = [right[0] for left, right in pairwise(parts) if self._apart(left[2], right[2])]
        is_open = bool(parts) and (state.cannot_fail or segments.gap < segments.start)
        if parts and not closed and not is_open and self._behavior in ("isolated", "removed"):
            cuts.append(parts[-1][1])
        last = parts[-1][2] if parts and self._behavior not in ("isolated", "removed") else None
        point = Point(segments.start, (state.entries, last), state.cannot_fail)
        return Cuts(tuple(cuts), sure, point)

    def tells(self, character: str) -> Hashable:
        """The sets of the pattern to which it belongs."""
        return tuple(belongs(character, each) for each in self._sets)

    def _apart(self, left: bool, right: bool) -> bool:
        """Whether two segments become parts of their own, by whether they are matches."""
        if self._behavior == "contiguous":
            return left != right
        if self._behavior == "mergedwithprevious":
            return left or not right
        if self._behavior == "mergedwithnext":
            return right or not left
        return True


@final
class PairStage:
    """Cuts between two characters where a component does, which looks no farther."""

    def __init__(self, component: Any) -> None:
        self._component = component
        self._cuts = lru_cache(maxsize=1 << 16)(self._cut)

    def scan(self, text: str, begin: int, end: int, *, closed: bool) -> Cuts:  # noqa: ARG002
        """Cut ``text[begin:end]``."""
        cut = self._cuts
        cuts = tuple(p for p in range(begin + 1, end) if cut(text[p - 1], text[p]))
        return Cuts(cuts, end, Point(end))

    def tells(self, character: str) -> Hashable:
        """How it is cut from one of each class that a component knows, and from itself."""
        pairs = [character * 2]
        for other in _OF_EACH_CLASS:
            pairs += [character + other, other + character]
        parts = (self._component.pre_tokenize_str(pair) for pair in pairs)
        return tuple(tuple(span for _, span in each) for each in parts)

    def _cut(self, left: str, right: str) -> bool:
        parts = self._component.pre_tokenize_str(left + right)
        return not any(first == 0 and last == 2 for _, (first, last) in parts)


@final
class NameStage:
    """Cuts around added tokens: of those that begin first, the longest.

    ``names`` says of each whether it is passed over, and whether it takes white space on its left
    and on its right.
    """

    def __init__(self, names: Mapping[str, tuple[bool, bool, bool]]) -> None:
        self._names = names
        self._beginnings = {name[:end] for name in names for end in range(1, len(name))}
        self._takes_left = any(left for _, left, _ in names.values())

    def scan(self, text: str, begin: int, end: int, *, closed: bool) -> Cuts:
        """Cut ``text[begin:end]``."""
        cuts: list[int] = []
        whole: set[int] = set()
        position, free = begin, begin
        while position < end:
            stop = self._stop(text, position, end, closed=closed)
            if stop is None:
                break
            if stop == position:
                position += 1
                continue
            passed, left, right = self._names[text[position:stop]]
            if not passed:
                first = _left_of_spaces(text, free, position) if left else position
                last = _right_of_spaces(text, stop, end) if right else stop
                if last == end and right and not closed:
                    # More white space may follow.
                    before = tuple(sorted({cut for cut in (*cuts, first) if cut > begin}))
                    return Cuts(before, first, Point(position, "name"), frozenset((*whole, first)))
                cuts += [first, last]
                whole.add(first)
                free = last
            position = stop
        sure = _left_of_spaces(text, free, position) if self._takes_left else position
        inside = {cut for cut in cuts if begin < cut < end + (not closed)}
        return Cuts(tuple(sorted(inside)), sure, Point(position), frozenset(whole))

    def _stop(self, text: str, start: int, end: int, *, closed: bool) -> int | None:
        """The end of the longest name at a position, the position if none; None: not settled."""
        longest, stop = start, start + 1
        while stop <= end:
            part = text[start:stop]
            if part in self._names:
                longest = stop
            if part not in self._beginnings:
                return longest
            stop += 1
        return longest if closed else None


def _left_of_spaces(text: str, low: int, position: int) -> int:
    while position > low and belongs(text[position - 1], r"\s"):
        position -= 1
    return position


def _right_of_spaces(text: str, position: int, high: int) -> int:
    while position < high and belongs(text[position], r"\s"):
        position += 1
    return position


@dataclass(frozen=True, slots=True)
class Trace:
    """All settled cuts of a scan, how each stage stands, and the open part: its start and ``sure``.

    ``named`` are the cuts around added tokens.
    """

    cuts: tuple[int, ...]
    points: tuple[Point, ...]
    sures: tuple[int, ...]
    start: int

    @property
    def sure(self) -> int:
        """To where the open part reaches at least."""
        return self.sures[-1]


def scan(stages: Sequence[Stage], text: str, begin: int, end: int) -> Trace:
    """What is settled of ``text[begin:end]``, after which any text may follow."""
    cuts: list[int] = []
    points: list[Point] = []
    sures = [end]
    for level, stage in enumerate(stages):
        made = stage.scan(text, begin, sures[-1], closed=False)
        for first, last in pairwise([begin, *made.cuts]):
            if first not in made.whole:
                cuts += _closed(stages[level + 1 :], text, first, last)
            cuts.append(last)
        begin = made.cuts[-1] if made.cuts else begin
        points.append(made.point)
        sures.append(max(begin, made.sure))
    return Trace(tuple(cuts), tuple(points), tuple(sures), begin)


def _closed(stages: Sequence[Stage], text: str, begin: int, end: int) -> Iterable[int]:
    """All cuts inside a part that has ended."""
    if not stages:
        return
    made = stages[0].scan(text, begin, end, closed=True)
    edges = [begin, *made.cuts, end]
    for first, last in pairwise(edges):
        if first not in made.whole:
            yield from _closed(stages[1:], text, first, last)
        if last < end:
            yield last


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Letters, digits, signs, white space and word marks.
_OF_EACH_CLASS = ("a", "1", ".", "_", " ", "\n", "\u65e5", "\u2581")
_LOCAL = (
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "BertPreTokenizer",
    "CharDelimiterSplit",
)


def stages_of(spec: Mapping[str, Any] | None) -> list[PreTokenizing]:
    """The stages of a pre-tokenizer, from its JSON. Raises ``NotFollowed``."""
    stages: list[PreTokenizing] = []
    for number, part in enumerate(flat(spec, "pretokenizers")):
        kind = part["type"]
        if kind == "Split":
            stages.append(_split_stage(part))
        elif kind == "ByteLevel":
            if part.get("add_prefix_space") and number:
                raise NotFollowed("ByteLevel with a space before every part")
            if part.get("use_regex", True):
                stages.append(PatternStage(GPT2, "isolated", invert=False))
        elif kind == "Metaspace":
            if part.get("split", True):
                stages.append(
                    PairStage(component("pre_tokenizer", {**part, "prepend_scheme": "never"}))
                )
        elif kind == "FixedLength":
            stages.append(PatternStage(rf"[\s\S]{{{part['length']}}}", "isolated", invert=False))
        elif kind in _LOCAL:
            stages.append(PairStage(component("pre_tokenizer", part)))
        else:
            raise NotFollowed(kind)
    return stages


def _split_stage(part: Mapping[str, Any]) -> PreTokenizing:
    ((kind, pattern),) = part["pattern"].items()
    source = literal(pattern) if kind == "String" else pattern
    if parse(source)[0] == "set":
        return PairStage(component("pre_tokenizer", part))
    return PatternStage(source, part["behavior"].lower(), invert=part.get("invert", False))


def flat(spec: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The parts of a sequence of sequences, in order."""
    if spec is None:
        return []
    if spec["type"] != "Sequence":
        return [spec]
    return [part for each in spec[key] for part in flat(each, key)]


def component(kind: str, spec: Mapping[str, Any]) -> Any:
    """A normalizer or pre-tokenizer from its JSON."""
    empty = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    return getattr(tokenizers.Tokenizer.from_str(json.dumps({**empty, kind: spec})), kind)
