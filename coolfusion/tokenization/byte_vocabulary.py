"""A tokenizer's tokens sorted by their bytes, so that tokens with a common beginning are a range.

Byte-level sums over tokens (arXiv 2410.09303) then are sums over ranges.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

from coolfusion.tokenization.base import Tokenizer
from coolfusion.types import Ints

MAX_FOLLOWS = 16_384  # ranges whose grouping by the next byte is cached


@dataclass(frozen=True, slots=True)
class Follow:
    """The tokens of a range, which share their first bytes, grouped by the next byte.

    The first ``num_whole`` tokens of the range have no further byte. Group ``i`` of the others
    begins at ``starts[i]`` and has ``next_bytes[i]``. ``ranges`` maps a byte to the (first, end)
    of its group.
    """

    # Example: the tokens 0 to 4 are "th", "than", "the", "then". After "th" num_whole is 1,
    # next_bytes are "a", "e", starts are 1, 2, and ranges are {"a": (1, 2), "e": (2, 4)}.

    num_whole: int
    next_bytes: Ints
    starts: Ints
    ranges: dict[int, tuple[int, int]]


@final
class ByteVocabulary:
    """The tokens that write bytes, sorted by them; ``ids`` (tokens,) are in that order.

    Control tokens, tokens without bytes and tokens that end a text (``end_ids``) are left out.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.end_ids = np.array(sorted(i for i in tokenizer.end_ids if i < vocab_size), np.int64)
        pieces = ((tokenizer.piece(token), token) for token in range(vocab_size))
        named = sorted(
            (piece, token) for piece, token in pieces if piece and token not in tokenizer.end_ids
        )
        self._pieces = [piece for piece, _ in named]
        self.ids = np.array([token for _, token in named], np.int64)
        self.follow = lru_cache(maxsize=MAX_FOLLOWS)(self._follow)

    @property
    def bytes_written(self) -> frozenset[int]:
        """Every byte that some token writes."""
        return frozenset(b"".join(self._pieces))

    def __len__(self) -> int:
        return len(self._pieces)

    def _follow(self, low: int, high: int, depth: int) -> Follow:
        """The tokens ``low`` to ``high``, which share ``depth`` bytes, grouped by the next byte."""
        # A string sorts before all that it begins, so complete tokens come first. There may be
        # several: a byte token and an ordinary one can write the same byte.
        start = low
        while start < high and len(self._pieces[start]) == depth:
            start += 1
        num_whole = start - low
        ranges = {}
        while start < high:
            byte = self._pieces[start][depth]
            end = self._end_of(self._pieces[start][: depth + 1], start, high)
            ranges[byte] = (start, end)
            start = end
        return Follow(
            num_whole,
            np.array(list(ranges), np.int64),
            np.array([first for first, _ in ranges.values()], np.int64),
            ranges,
        )

    def _end_of(self, beginning: bytes, low: int, high: int) -> int:
        """The end of the tokens with this beginning, which lie between ``low`` and ``high``."""
        # They end where the next greater string of equal length would stand. Byte 255 has no
        # successor, but it also comes last among the tokens that share the bytes before it.
        if beginning[-1] == 255:
            return high
        return bisect_left(self._pieces, beginning[:-1] + bytes([beginning[-1] + 1]), low, high)
