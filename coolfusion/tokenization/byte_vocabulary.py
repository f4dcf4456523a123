"""A tokenizer's tokens in the order of their bytes, so that all that begin alike lie together."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

from coolfusion.tokenization.base import Tokenizer
from coolfusion.types import Ints

MAX_FOLLOWS = 16_384  # ranges whose continuations are remembered


@dataclass(frozen=True, slots=True)
class Follow:
    """How the tokens of a range, which have their first bytes in common, go on.

    The first ``num_whole`` of the range have no further byte. The others are grouped by their
    next one: group ``i`` begins at ``starts[i]`` and has ``next_bytes[i]``; ``ranges`` says where
    the group of a byte begins and ends.
    """

    num_whole: int
    next_bytes: Ints
    starts: Ints
    ranges: dict[int, tuple[int, int]]


@final
class ByteVocabulary:
    """The tokens that write bytes, sorted by them; ``ids`` (tokens,) are in that order.

    Control tokens, tokens without bytes and those in ``end_ids``, which end a text, are left out.
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

    def __len__(self) -> int:
        return len(self._pieces)

    def _follow(self, low: int, high: int, depth: int) -> Follow:
        """How the tokens ``low`` to ``high`` go on after the ``depth`` bytes they share."""
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
        """Where the tokens that begin so end, which lie between ``low`` and ``high``."""
        if beginning[-1] == 255:
            return high
        return bisect_left(self._pieces, beginning[:-1] + bytes([beginning[-1] + 1]), low, high)
