"""A tokenizer's tokens sorted by their bytes, so that tokens with a common beginning are a range.

Byte-level sums over tokens (arXiv 2410.09303) then are sums over ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import final

import numpy as np

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.token_bytes import bytes_of
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
        known = bytes_of(tokenizer, vocab_size)
        kept = (known.lengths > 0) & (known.ids < vocab_size) & ~np.isin(known.ids, self.end_ids)
        pieces = known.written()
        order = sorted(np.flatnonzero(kept).tolist(), key=pieces.__getitem__)
        self.ids = known.ids[order]
        self._data = np.frombuffer(b"".join([pieces[number] for number in order]), np.uint8)
        self._lengths = known.lengths[order]
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.follow = lru_cache(maxsize=MAX_FOLLOWS)(self._follow)

    @property
    def bytes_written(self) -> frozenset[int]:
        """Every byte that some token writes."""
        return frozenset(np.unique(self._data).tolist())

    def __len__(self) -> int:
        return len(self.ids)

    def _follow(self, low: int, high: int, depth: int) -> Follow:
        """The tokens ``low`` to ``high``, which share ``depth`` bytes, grouped by the next byte."""
        # A string sorts before all that it begins, so complete tokens come first. There may be
        # several: a byte token and an ordinary one can write the same byte.
        num_whole = int(np.count_nonzero(self._lengths[low:high] == depth))
        first = low + num_whole
        # The next bytes ascend, so the first of each kind begins its group.
        following = self._data[self._starts[first:high] + depth]
        next_bytes, groups = np.unique(following, return_index=True)
        starts = groups + first
        edges = [*starts.tolist(), high]
        ranges = dict(zip(next_bytes.tolist(), pairwise(edges), strict=True))
        return Follow(num_whole, next_bytes.astype(np.int64), starts, ranges)
