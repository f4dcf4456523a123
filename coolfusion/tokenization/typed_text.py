"""Which characters of a rendered chat somebody typed, and which the template wrote.

A chat template is a function from messages to a text. It is called again with every typed
character replaced by another one. Where the two texts differ, the text was typed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
import regex

from coolfusion.errors import PromptError
from coolfusion.tokenization.chat_marks import Block, are_marks, codes_of, marks_of
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
# Where a template looks into messages, they are cut apart, and what cannot be marked whole is cut
# into finer pieces. Names of tags come last, as "</think>": templates look for these.
_CUTS = [regex.compile(cut) for cut in (r"<[^<>\s]*>|\[[^\[\]\s]*\]|\w+|\S", r"\w+|\S", r"\S")]
_TAG = regex.compile(r"[<\[].+")
_MAX_RENDERINGS = 256
_MAX_ALONE = 16  # pieces that are looked for one by one

Path = tuple[Any, ...]


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
    template: ChatTemplate,
    messages: Sequence[Message],
    rendered: str,
    block: Block,
    names: Collection[str],
) -> Typed | None:
    """What was typed of ``rendered``, which is what ``template`` makes of ``messages``.

    None if it does not make that of them any more, as a template that writes the time.
    Everything that a message says counts as typed: contents, names, arguments of tools, their
    keys, and roles that are no words of the format. ``names`` are those of tokens in question.
    """
    trials = _Trials(template, messages, rendered, block, names)
    if trials.mark([trials.spans]):
        return Typed(trials.found.tobytes(), ())
    if template(messages) != rendered:
        return None
    trials.mark_parts(trials.spans)
    hidden = trials.without_copies(trials.unmarked())
    return Typed(trials.found.tobytes(), tuple(hidden))


class _Trials:
    """Renderings with some of the typed texts marked, at most so many of them.

    ``spans`` are those of the texts in all of them joined, and ``found`` is where marked
    characters stand in the chat.
    """

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        rendered: str,
        block: Block,
        names: Collection[str],
    ) -> None:
        self._template = template
        self._messages = messages
        self._names = names
        self._block = block
        texts = dict(_typed_strings(list(messages), ()))
        self._paths = list(texts)
        self._joined = "".join(texts.values())
        ends = list(accumulate(map(len, texts.values())))
        self.spans = list(zip([0, *ends], ends, strict=False))
        self._codes = codes_of(self._joined)
        self._marks = marks_of(self._codes, block)
        self._marked = np.zeros(len(self._codes), dtype=bool)
        self._rendered = codes_of(rendered)
        self._last = rendered
        self.found = np.zeros(len(rendered), dtype=bool)
        self._num_left = _MAX_RENDERINGS

    def mark(self, groups: Sequence[Sequence[tuple[int, int]]]) -> bool:
        """Mark these spans, too, unless that changes the text around them."""
        self._num_left -= 1
        marked = self._marked.copy()
        for spans in groups:
            for start, end in spans:
                marked[start:end] = True
        texts = self._split(np.where(marked, self._marks, self._codes))
        try:
            got = self._template(cast("Any", _with_texts(self._messages, texts, ())))
        except PromptError:  # what the template refuses marked, it looks into
            return False
        if len(got) != len(self._rendered):
            return False
        codes = codes_of(got)
        found = are_marks(codes, self._block)
        if not (found | (codes == self._rendered)).all():
            return False
        self._marked, self.found, self._last = marked, found, got
        return True

    def mark_parts(self, spans: Sequence[tuple[int, int]], level: int = 0) -> None:
        """Mark what can be marked of the spans, and leave what the template compares with.

        Equal pieces go together, since a template compares with words and not with places. So the
        number of renderings depends on the template's words, and hardly on the messages.
        """
        groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for start, end in spans:
            for cut in _CUTS[level].finditer(self._joined, start, end):
                groups[cut.group()].append(cut.span())
        self._mark_groups([group for name, group in groups.items() if not _TAG.match(name)], level)
        self._mark_groups([group for name, group in groups.items() if _TAG.match(name)], level)

    def unmarked(self) -> list[str]:
        """What of the texts is not marked, cut at white space. Each once, long ones first."""
        left = self._split(np.where(self._marked, ord(" "), self._codes))
        words = {word for text in left.values() for word in text.split()}
        return sorted(words, key=lambda word: (-len(word), word))

    def without_copies(self, pieces: list[str]) -> list[str]:
        """The unmarked pieces of which it is not known where in the chat they stand.

        Of the others it is known, and what stands there is among the typed text.
        """
        matter = [piece for piece in pieces if self._matters(piece)]
        for group in (pieces, matter):
            if self._mark_copies(group):
                return [piece for piece in pieces if piece not in group]
        known = [piece for piece in matter[:_MAX_ALONE] if self._mark_copies([piece])]
        return [piece for piece in pieces if piece not in known]

    def _mark_copies(self, pieces: Sequence[str]) -> bool:
        """Mark where the chat has copies of the pieces; false if that cannot be told.

        Each piece is typed twice, with a sign between. What a template compares a message with is
        there still. In the chat the copies are double then, and what the template writes is not.
        """
        if not pieces:
            return False
        between = self._block.between
        found = regex.compile("|".join(map(regex.escape, pieces)))
        codes = np.where(self._marked, self._marks, self._codes)
        texts = {
            path: found.sub(lambda match: match[0] + between + match[0], text)
            for path, text in self._split(codes).items()
        }
        try:
            got = self._template(cast("Any", _with_texts(self._messages, texts, ())))
        except PromptError:
            return False
        first, *rest = got.split(between)
        once, before, spans = [first], first, []
        end = len(first)
        for text in rest:
            piece = next((p for p in pieces if before.endswith(p) and text.startswith(p)), "")
            spans.append((end - len(piece), end))
            once.append(text[len(piece) :])
            end += len(once[-1])
            before = text
        if "".join(once) != self._last:
            return False
        for start, stop in spans:
            self.found[start:stop] = True
        return True

    def _mark_groups(self, groups: list[list[tuple[int, int]]], level: int) -> None:
        if not groups or self._num_left <= 0 or self.mark(groups):
            return
        if len(groups) > 1:
            half = len(groups) // 2
            self._mark_groups(groups[:half], level)
            self._mark_groups(groups[half:], level)
            return
        start, end = groups[0][0]
        if level + 1 < len(_CUTS) and self._matters(self._joined[start:end]):
            self.mark_parts(groups[0], level + 1)

    def _matters(self, piece: str) -> bool:
        """Whether a part of ``piece`` can be a token in question, or all of it a part of one."""
        return any(_overlap(piece, name) or _spells(piece, name) for name in self._names)

    def _split(self, codes: np.ndarray) -> dict[Path, str]:
        joined = codes.astype(np.uint32).tobytes().decode("utf-32-le")
        pairs = zip(self._paths, self.spans, strict=True)
        return {path: joined[start:end] for path, (start, end) in pairs}


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


def _overlap(piece: str, name: str) -> bool:
    """Whether a copy of ``piece`` can be part of ``name``, or ``name`` of it."""
    if piece in name or name in piece:
        return True
    return any(
        piece.endswith(name[:size]) or piece.startswith(name[-size:])
        for size in range(1, min(len(piece), len(name)))
    )


def _spells(piece: str, name: str) -> bool:
    """Whether ``name`` remains where a template removes some of the characters of ``piece``."""
    rest = iter(piece)
    return all(char in rest for char in name)
