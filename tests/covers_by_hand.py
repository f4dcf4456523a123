"""Covers of a text by hand: their sums term by term, and which of them have to be there."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from coolfusion.backends.base import Query
from coolfusion.backends.source import Source
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.continuations import examples
from coolfusion.tokenization.covers import END, Covering


class ByHand:
    """The sums of ``coolfusion.tokenization.covers``, term by term from their definitions."""

    def __init__(self, source: Source, prompt: tuple[int, ...]) -> None:
        self.source = source
        self.prompt = prompt
        self.known: dict[tuple[int, ...], np.ndarray] = {}
        ids = range(source.backend.vocab_size)
        pieces = {i: source.tokenizer.piece(i) for i in ids if i not in source.tokenizer.end_ids}
        self.pieces = {i: piece for i, piece in pieces.items() if piece}
        self.bytes_written = frozenset(b"".join(self.pieces.values()))

    def probs(self, ids: tuple[int, ...]) -> np.ndarray:
        if ids not in self.known:
            (answer,) = self.source.backend.distributions([Query(self.prompt + ids)])
            self.known[ids] = np.exp(answer.log_probs[0])
        return self.known[ids]

    def admits(self, ids: tuple[int, ...], data: bytes) -> bool:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return True
        return ids in _beginnings(self.source, self.bytes_written, text)

    def mass(
        self, data: bytes, *, judged: bool, ids: tuple[int, ...] = (), start: int = 0
    ) -> float:
        """F of the bytes; if the last token, once complete, is not ``judged`` yet, before it is."""
        rest = data[start:]
        if not rest:
            return 1.0
        total = 0.0
        for token, piece in self.pieces.items():
            if piece.startswith(rest) and (len(piece) > len(rest) or not judged):
                total += self.probs(ids)[token]
            elif rest.startswith(piece):
                longer, end = (*ids, token), start + len(piece)
                if self.admits(longer, data[:end]):
                    more = self.mass(data, judged=judged, ids=longer, start=end)
                    total += self.probs(ids)[token] * more
        return total

    def next_bytes(self, data: bytes) -> np.ndarray:
        """(257,) the normalised distribution of what comes after ``data``."""
        found = self.sums(data)
        return found / found.sum()

    def sums(self, data: bytes) -> np.ndarray:
        """(257,) the same, not normalised."""
        found = np.zeros(257)
        for byte in range(256):
            longer = data + bytes([byte])
            if _begins_text(longer):
                found[byte] = self.mass(longer, judged=False)
        if _is_text(data):
            ids = self.source.tokenizer.encode(data.decode())
            path = [self.probs(ids[:i])[ids[i]] for i in range(len(ids))]
            ends = list(self.source.tokenizer.end_ids)
            found[END] = np.prod(path) * self.probs(ids)[ends].sum()
        return found


@lru_cache(maxsize=4096)
def _beginnings(source: Source, bytes_written: frozenset[int], text: str) -> set[tuple[int, ...]]:
    """Beginnings of the encodings of ``text`` with any of about 150 examples after it."""
    few = (more for more in examples() if len(more) > 1 or more.isprintable())
    chosen = (more for num, more in enumerate(few) if len(more) > 1 or not num % 6)
    usable = (more for more in chosen if bytes_written.issuperset(more.encode()))
    longer = {source.tokenizer.encode(text + more) for more in ("", *usable)}
    return {each[:num] for each in longer for num in range(len(each) + 1)}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _begins_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def covered(covering: Covering, text: str, row: np.ndarray) -> list[set[tuple[int, ...]]]:
    """The complete tokens of all branches after every byte of ``text``."""
    cover, found = covering.begin(), []
    for byte in text.encode():
        cover = covering.advance(covering.learn(cover, dict.fromkeys(cover.unknown, row)), byte)
        found.append({branch.ids for branch in cover.branches})
    return found


def missing(tokenizer: Tokenizer, covering: Covering, text: str, row: np.ndarray) -> list[int]:
    """Where, in bytes, a beginning of the encoding of ``text`` was no cover when it was passed."""
    ids, found, end, lost = tokenizer.encode(text), covered(covering, text, row), 0, []
    for number, token in enumerate(ids, 1):
        end += len(tokenizer.piece(token) or b"")
        lost += [] if ids[:number] in found[end - 1] else [end]
    return lost
