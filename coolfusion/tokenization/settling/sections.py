"""Where the encoding of a text begins anew, since a name before it is encoded apart from the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import regex

# The first place where a text is taken apart: where what is found begins, and where what follows
# is encoded by itself.
Found = tuple[int, int]
Search = Callable[[str, int], Found | None]

_WORD = regex.compile(r"\w")


@final
class Sections:
    """The sections of texts that are taken apart at names.

    Each search finds the first place after a position. ``names`` are all that any of them finds,
    but for single characters. Names ``as_words`` count only where they stand alone as words.
    """

    def __init__(
        self, searches: Sequence[Search], names: Sequence[str], as_words: Sequence[str] = ()
    ) -> None:
        self._searches = searches
        self._longest = max(map(len, names), default=0)
        self._begun = {name[:end] for name in names for end in range(1, len(name))}
        self._begun.update(as_words)  # a letter may follow, and then it is no word
        self._has_words = bool(as_words)

    def last(self, text: str) -> tuple[int, int]:
        """The last section, as far as it is one whatever follows: its start and its end.

        What stands from its end on may become a part of a name.
        """
        start, end = 0, self._held_back(text, 0)
        for search in self._searches:
            while (found := search(text, start)) is not None and found[0] < end:
                start = found[1]
                end = self._held_back(text, start)
        return start, end

    def is_free(self, text: str, place: int) -> bool:
        """Whether names after a place are found alike without the text before it."""
        return not (self._has_words and _WORD.match(text, place - 1))

    def joins_nothing(self, lead: str) -> bool:
        """Whether no name begins in a text that is put before another."""
        return self._held_back(lead, 0) == len(lead)

    def _held_back(self, text: str, start: int) -> int:
        first = max(start, len(text) - self._longest)
        held = (place for place in range(first, len(text)) if text[place:] in self._begun)
        return next(held, len(text))
