"""A tokenizer's tokens as outcomes: which may come next, and whether sources have the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, final

import numpy as np

from coolfusion.backends.sampling import log_sum_exp
from coolfusion.backends.source import Source
from coolfusion.errors import SourceError
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.token_bytes import bytes_of
from coolfusion.tokenization.utf8 import goes_on
from coolfusion.types import Floats, Ints

MAX_BEGINNINGS: Final = 64  # beginnings of a character for which excluded tokens are remembered
# Tokenizers with the same tokens may still write texts differently, by other merges.
PROBES: Final = (
    "Tom has 3 apples, doesn't he?\n\n    return f(x)  # 12,345.67",
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f44d\U0001f3fd \u041f\u0440\u0438\u0432\u0435\u0442",
    "antidisestablishmentarianism CamelCase snake_case\tTHE END...",
)


@final
class Vocabulary:
    """The first ``size`` ids as outcomes of a next token.

    Control tokens cannot come next, nor can tokens whose bytes would not be UTF-8 after those
    before them. All ids that end a text are one outcome, ``end`` (None: there is none).
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.size = size
        self._bytes = bytes_of(tokenizer, size)
        ends = sorted(token for token in tokenizer.end_ids if token < size)
        self.end = ends[0] if ends else None
        self._ends: Ints = np.array(ends, np.int64)
        # Only these can go on inside a character: few, so that no other is looked at again.
        self._inside = [t for t, piece in self._writing() if _is_inside(piece)]
        self.excluded = lru_cache(maxsize=MAX_BEGINNINGS)(self._excluded)

    def piece(self, token_id: int) -> bytes | None:
        """The bytes of a token; None for a control token or an unused id."""
        return self._bytes.piece(token_id)

    def outcomes(self, log_probs: Floats, beginning: bytes) -> Floats:
        """(size,) a distribution over ids as one over outcomes, after the ``beginning`` of a character.

        Both are in nats. The end's probability is that of all its ids together, at ``end``.
        Raises ``SourceError`` where nothing that can come next has any probability.
        """
        excluded = self.excluded(beginning)
        lost = float(np.exp(log_probs[excluded]).sum() + np.exp(log_probs[self.size :]).sum())
        ended = log_sum_exp(log_probs[self._ends])
        row = np.array(log_probs[: self.size], dtype=np.float64)
        row[excluded] = -np.inf
        if self.end is not None:
            row[self._ends] = -np.inf
            row[self.end] = ended
        total = float(np.log1p(-lost)) if lost < 0.5 else log_sum_exp(row)
        if not np.isfinite(total):
            raise SourceError(
                "The model gives all probability to tokens that cannot come next: control tokens, "
                "or bytes that are no UTF-8. Its tokenizer may not be the one it was trained with."
            )
        return row - total

    def _excluded(self, beginning: bytes) -> Ints:
        """Ids that cannot come next."""
        candidates = ((t, self.piece(t) or b"") for t in self._inside)
        fitting = [
            t
            for t, piece in (candidates if beginning else self._writing())
            if goes_on(beginning + piece)
        ]
        allowed = np.zeros(self.size, dtype=np.bool_)
        allowed[np.array(fitting, np.int64)] = True
        allowed[self._ends] = True
        return np.flatnonzero(~allowed)

    def _writing(self) -> Iterator[tuple[int, bytes]]:
        """The ids that end nothing, with the bytes that they write."""
        ends = set(self._ends.tolist())
        for number, token in enumerate(self._bytes.ids.tolist()):
            piece = self._bytes[number]
            if piece is not None and token < self.size and token not in ends:
                yield token, piece


def _is_inside(piece: bytes) -> bool:
    return not piece or 0x80 <= piece[0] < 0xC0


def vocabulary_difference(sources: Sequence[Source]) -> str | None:
    """Where the vocabularies of two sources part, in words; None if all share one.

    They share it if every id has the same bytes, the same ids end a text, and a few texts are
    encoded alike. Ids without bytes that end nothing may differ.
    """
    first = sources[0]
    size = max(source.backend.vocab_size for source in sources)
    own = first.tokenizer.piece
    for other in sources[1:]:
        pair = f'"{first.name}" and "{other.name}"'
        if other.tokenizer is not first.tokenizer:
            theirs = other.tokenizer.piece
            token = next((t for t in range(size) if own(t) != theirs(t)), None)
            if token is not None:
                return f"token {token} is {own(token)!r} and {theirs(token)!r} to {pair}"
            ends = [set(source.tokenizer.end_ids) for source in (first, other)]
            if ends[0] != ends[1]:
                return f"texts end with {sorted(ends[0])} and {sorted(ends[1])} to {pair}"
            for probe in PROBES:
                if first.tokenizer.encode(probe) != other.tokenizer.encode(probe):
                    return f"{probe!r} is encoded differently by {pair}"
        smaller = min(first.backend.vocab_size, other.backend.vocab_size)
        used = [t for t in range(smaller, size) if own(t) is not None]
        used += [t for t in first.tokenizer.end_ids if t >= smaller]
        if first.backend.vocab_size != other.backend.vocab_size and used:
            return f"token {used[0]} is known to only one of {pair}"
    return None
