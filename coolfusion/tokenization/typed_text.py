"""Which characters of a rendered chat somebody typed, and which the template wrote.

A chat template is a function from messages to a text. It is called again with every typed
character replaced by a private one. Where the two texts differ, the text was typed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import regex

from coolfusion.errors import PromptError
from coolfusion.tokenization.prompts import Message

ChatTemplate = Callable[[Sequence[Message]], str]

# Words of the chat's own format, which templates compare with and write into control tokens
# ("<|" + role + "|>"). Any other role is text that somebody typed.
_ROLES = frozenset(
    "system developer user assistant tool function ipython environment model observation human "
    "gpt bot chatbot tool_call tool_calls tool_response tool_result tool_results".split()
)
_FORMAT_WORDS = {"role": _ROLES, "type": frozenset({"text", "function"})}
_NAME = regex.compile(r"\w+")
# Where a template looks into messages, they are cut apart, as "</think>" from the words around it,
# and what cannot be marked whole is cut into finer pieces.
_CUTS = [regex.compile(cut) for cut in (r"<[^<>\s]*>|\[[^\[\]\s]*\]|\w+|\S", r"\w+|\S", r"\S")]
# White space is trimmed, and these are escaped by JSON: a private character in their place would
# change more than itself.
_KEPT = regex.compile(r"[\s\"'\\\p{Cc}]")
_MAX_RENDERINGS = 256

Path = tuple[Any, ...]


class Block(NamedTuple):
    """Private code points that a chat does not contain: names of tokens, then marks."""

    names: int
    blank: str
    marks: int
    num_marks: int

    def mark(self, index: int) -> str:
        """The mark of the character with this number."""
        return chr(self.marks + index % self.num_marks)

    def has(self, char: str) -> bool:
        """Whether ``char`` is one of the marks."""
        return self.marks <= ord(char) < self.marks + self.num_marks


_BLOCK_SIZE, _NUM_NAMES = 0x7000, 0x5000
_STARTS = (0xF0000, 0xF7000, 0x100000, 0x107000)


def free_block(texts: Sequence[str]) -> Block:
    """The first block of private code points of which no text contains any.

    Raises ``PromptError`` if there is none.
    """
    used = {ord(char) for text in texts for char in set(text) if ord(char) >= _STARTS[0]}
    for start in _STARTS:
        if not any(start <= code < start + _BLOCK_SIZE for code in used):
            marks = start + _NUM_NAMES + 1
            return Block(start, chr(start + _NUM_NAMES), marks, _BLOCK_SIZE - _NUM_NAMES - 1)
    raise PromptError(
        "The chat uses all of Unicode's private planes, so none of their characters can tell typed "
        "text from the template's. Remove some of them."
    )


class Typed(NamedTuple):
    """What is known of a rendered chat: a 1 for each typed character, and texts unaccounted for.

    ``hidden`` are pieces of messages that the template compares with. They cannot be replaced
    without changing what it writes, so they may stand anywhere in the chat, or nowhere.
    """

    mask: bytes
    hidden: tuple[str, ...]

    def covers(self, start: int, end: int) -> bool:
        """Whether any character from ``start`` to ``end`` was typed."""
        return self.mask.find(1, start, end) >= 0

    def blanked(self, text: str, start: int, end: int, blank: str) -> str:
        """``text`` with ``blank`` in place of what was typed from ``start`` to ``end``."""
        inside = [blank if self.mask[k] else text[k] for k in range(start, end)]
        return "".join([text[:start], *inside, text[end:]])

    def may_hide(self, name: str) -> bool:
        """Whether ``name``, though nothing of it is marked, may come of a hidden piece."""
        return any(_overlap(piece, name) for piece in self.hidden)


class _Piece(NamedTuple):
    path: Path
    start: int
    end: int


def strings_of(value: Any) -> Iterator[str]:
    """All texts in messages, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings_of(each)


def find_typed(
    template: ChatTemplate, messages: Sequence[Message], rendered: str, block: Block
) -> Typed | None:
    """What was typed of ``rendered``, which is what ``template`` makes of ``messages``.

    None if it does not make that of them any more, as a template that writes the time.
    Everything that a message says counts as typed: contents, names, arguments of tools, their
    keys, and roles that are no words of the format.
    """
    texts = dict(_typed_strings(list(messages), ()))
    trials = _Trials(template, messages, rendered, block, texts)
    whole = [_Piece(path, 0, len(text)) for path, text in texts.items()]
    mask = trials.mask(whole)
    if mask is not None:
        return Typed(mask, ())
    if template(messages) != rendered:
        return None
    trials.mark_most(whole)
    return Typed(trials.found, tuple(_gaps(texts, trials.marked)))


class _Trials:
    """Renderings with some of the typed pieces marked, at most so many of them."""

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        rendered: str,
        block: Block,
        texts: dict[Path, str],
    ) -> None:
        self._template = template
        self._messages = messages
        self._rendered = rendered
        self._texts = texts
        alphabet = dict.fromkeys("".join(texts.values()))
        self._table = {
            ord(char): block.mark(k) for k, char in enumerate(alphabet) if not _KEPT.match(char)
        }
        low, high = block.mark(0), block.mark(block.num_marks - 1)
        self._marks = regex.compile(f"[{low}-{high}]+")
        self._num_left = _MAX_RENDERINGS
        self.marked: list[_Piece] = []  # what can be marked without another effect
        self.found = bytes(len(rendered))  # where that stands in the chat

    def mark_most(self, pieces: list[_Piece], level: int = 0) -> None:
        """Mark what can be marked of the pieces, too.

        Equal pieces go together, since a template compares with words and not with places. So the
        number of renderings depends on the template's words, and hardly on the messages.
        """
        groups: dict[str, list[_Piece]] = defaultdict(list)
        for piece in pieces:
            text = self._texts[piece.path]
            for cut in _CUTS[level].finditer(text, piece.start, piece.end):
                groups[cut.group()].append(_Piece(piece.path, *cut.span()))
        self._mark_groups(list(groups.values()), level)

    def _mark_groups(self, groups: list[list[_Piece]], level: int) -> None:
        if not groups or self._num_left <= 0:
            return
        wanted = [*self.marked, *(piece for group in groups for piece in group)]
        mask = self.mask(wanted)
        if mask is not None:
            self.marked, self.found = wanted, mask
        elif len(groups) > 1:
            half = len(groups) // 2
            self._mark_groups(groups[:half], level)
            self._mark_groups(groups[half:], level)
        elif level + 1 < len(_CUTS) and groups[0][0].end - groups[0][0].start > 1:
            self.mark_most(groups[0], level + 1)

    def mask(self, pieces: Iterable[_Piece]) -> bytes | None:
        """Where these pieces stand; None if marking them changes the text around them."""
        self._num_left -= 1
        marked = self._with_marks(pieces)
        try:
            got = self._template(cast("Any", _with_texts(self._messages, marked, ())))
        except PromptError:  # what the template refuses marked, it looks into
            return None
        if len(got) != len(self._rendered):
            return None
        mask, last = bytearray(len(got)), 0
        for found in self._marks.finditer(got):
            start, end = found.span()
            if got[last:start] != self._rendered[last:start]:
                return None
            mask[start:end] = b"\x01" * (end - start)
            last = end
        return bytes(mask) if got[last:] == self._rendered[last:] else None

    def _with_marks(self, pieces: Iterable[_Piece]) -> dict[Path, str]:
        spans: dict[Path, list[tuple[int, int]]] = defaultdict(list)
        for path, start, end in pieces:
            spans[path].append((start, end))
        marked = {}
        for path, found in spans.items():
            text, last, parts = self._texts[path], 0, []
            for start, end in sorted(found):
                parts += [text[last:start], text[start:end].translate(self._table)]
                last = end
            marked[path] = "".join([*parts, text[last:]])
        return marked


def _typed_strings(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The typed texts by where they stand; a key has the path of its value, and None."""
    if isinstance(value, str):
        if value not in _FORMAT_WORDS.get(path[-1], ()):
            yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            if not _NAME.fullmatch(key):
                yield (*path, key, None), key
            yield from _typed_strings(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _typed_strings(each, (*path, index))


def _with_texts(value: Any, texts: dict[Path, str], path: Path) -> Any:
    if isinstance(value, str):
        return texts.get(path, value)
    if isinstance(value, dict):
        return {
            texts.get((*path, key, None), key): _with_texts(each, texts, (*path, key))
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_with_texts(each, texts, (*path, k)) for k, each in enumerate(value)]
    return value


def _gaps(texts: dict[Path, str], marked: Sequence[_Piece]) -> Iterator[str]:
    """What of the texts is not marked, cut at white space."""
    spans: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for path, start, end in marked:
        spans[path].append((start, end))
    for path, text in texts.items():
        at = 0
        for start, end in [*sorted(spans[path]), (len(text), len(text))]:
            yield from text[at:start].split()
            at = end


def _overlap(piece: str, name: str) -> bool:
    """Whether a copy of ``piece`` can be part of ``name``, or ``name`` of it."""
    if piece in name or name in piece:
        return True
    return any(
        piece.endswith(name[:size]) or piece.startswith(name[-size:])
        for size in range(1, min(len(piece), len(name)))
    )
