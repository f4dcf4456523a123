"""Characters that stand in the place of typed ones when a chat is rendered again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import regex

from coolfusion.errors import PromptError

# White space is trimmed, and these are escaped by JSON: a mark in their place would change more
# than itself.
_KEPT = regex.compile(r"[\s\"'\\\p{Cc}]")
_KEEP, _LETTER, _SIGN = range(3)
_BMP = 0x10000
# Marks are printed, not escaped, and letters are marked by letters, so that words stay words.
_LETTERS = tuple(range(start, start + 0x2000) for start in range(0x20000, 0x2A000, 0x2000))
_SIGNS = (range(0x2800, 0x2900), range(0x1F030, 0x1F094), range(0x1D300, 0x1D350))


class Block(NamedTuple):
    """Code points that a chat does not contain: names of tokens, a filler, and marks.

    ``between`` is a sign that is no mark.
    """

    names: int
    blank: str
    between: str
    letters: range
    signs: range


_BLOCK_SIZE = 0x7000
_PRIVATE_BLOCKS = tuple(range(start, start + _BLOCK_SIZE) for start in (0xF0000, 0xF7000, 0x100000))


def free_block(texts: Sequence[str]) -> Block:
    """Code points of which no text contains any. Raises ``PromptError`` if there are none."""
    text = "".join(texts)
    private, letters, signs = (
        next((block for block in blocks if not _any_in(block, text)), None)
        for blocks in (_PRIVATE_BLOCKS, _LETTERS, _SIGNS)
    )
    if private is None or letters is None or signs is None:
        raise PromptError(
            "The chat uses all of Unicode's private characters, or all of its rarest, so none can tell "
            "typed text from the template's. Remove some of them."
        )
    return Block(private[0], chr(private[-1]), chr(signs[-1]), letters, signs[:-1])


def _any_in(block: range, text: str) -> bool:
    return _pattern_of(block).search(text) is not None


@cache
def _pattern_of(block: range) -> regex.Pattern[str]:
    return regex.compile(f"[{chr(block[0])}-{chr(block[-1])}]")


def codes_of(text: str) -> np.ndarray:
    """The code points of a text, as uint32 of shape ``(len(text),)``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def marks_of(codes: np.ndarray, block: Block) -> np.ndarray:
    """The mark of each code point, in the same shape; itself where a mark would change more."""
    kinds = np.where(codes < _BMP, _kinds()[codes % _BMP], _SIGN)
    letters, signs = _in(block.letters, codes), _in(block.signs, codes)
    marks: np.ndarray = np.where(kinds == _LETTER, letters, signs)
    return np.where(kinds == _KEEP, codes, marks)


def are_marks(codes: np.ndarray, block: Block) -> np.ndarray:
    """Which code points are marks, as bool in the same shape."""
    found: np.ndarray = _is_in(block.letters, codes) | _is_in(block.signs, codes)
    return found


@lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """How each character of the basic plane is marked."""
    kinds = np.full(_BMP, _SIGN, dtype=np.uint8)
    for code in range(_BMP):
        char = chr(code)
        if char.isalnum() or char == "_":
            kinds[code] = _LETTER
        elif _KEPT.match(char):
            kinds[code] = _KEEP
    return kinds


def _in(block: range, codes: np.ndarray) -> np.ndarray:
    return block[0] + codes % len(block)


def _is_in(block: range, codes: np.ndarray) -> np.ndarray:
    inside: np.ndarray = (codes >= block[0]) & (codes <= block[-1])
    return inside
