"""Kinds of Unicode characters: which are rare in texts, and samples of each to try."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

WORD_MARK = "\u2581"  # what SentencePiece writes for a space
# Kinds that hardly any text holds. To lose one of them does not make a tokenizer unusable.
RARE = frozenset(
    {
        "control characters",
        "format characters",
        "line and paragraph separators",
        "private-use characters",
        "unassigned code points",
        "supplementary variation selectors",
        "replacement characters",
        "the word mark of SentencePiece",
    }
)
OPEN = frozenset({"private-use characters", "unassigned code points"})  # samples are tried
_BY_CATEGORY = {
    "Cc": "control characters",
    "Cf": "format characters",
    "Co": "private-use characters",
    "Cn": "unassigned code points",
    "Zl": "line and paragraph separators",
    "Zp": "line and paragraph separators",
    "Zs": "special spaces",
}
_BY_FIRST = {
    "L": ("letters", "other scripts"),
    "M": ("combining marks", "combining marks"),
    "N": ("digits", "other digits and numbers"),
    "P": ("punctuation", "punctuation"),
    "S": ("punctuation", "emoji and other symbols"),
}
_SPECIAL = {
    WORD_MARK: "the word mark of SentencePiece",
    **dict.fromkeys("\ufffc\ufffd", "replacement characters"),
    **dict.fromkeys("\u200c\u200d", "zero-width joiners"),
    **dict.fromkeys(map(chr, range(0xFE00, 0xFE10)), "variation selectors"),
    **dict.fromkeys(map(chr, range(0xE0100, 0xE01F0)), "supplementary variation selectors"),
    **dict.fromkeys("\n\r", "line breaks"),
    "\t": "tabs",
    " ": "single spaces",
}
_SURROGATES = range(0xD800, 0xE000)
_PRIVATE = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_PLANES_IN_USE = (*range(0x40000), *range(0xE0000, 0xE1000))  # no character stands beyond them
# Ends of the private-use areas, code points that will never be characters, and unassigned ones.
_OUTSIDE = (
    *(0xE000, 0xE001, 0xF8FF, 0xF0000, 0xFFFFD, 0x100000, 0x10FFFD),
    *(0xFDD0, 0xFDEF, 0xFFFE, 0xFFFF, 0x1FFFE, 0x1FFFF, 0x2FFFF, 0xFFFFE, 0x10FFFE, 0x10FFFF),
    *(0x0378, 0x0530, 0x2FE0, 0x10200, 0x1F8FF, 0x3FFFD, 0xE0002, 0xE0FFF),
    *(0x40000, 0x7FFFD, 0x80000, 0xBFFFD, 0xC0000, 0xDFFFD),  # all first bytes in UTF-8
)
_STEP = 128  # code points of which one of each category is a sample


def kind_of(character: str) -> str:
    """The kind of a character, as losses name it."""
    if character in _SPECIAL:
        return _SPECIAL[character]
    category = unicodedata.category(character)
    if category in _BY_CATEGORY:
        return _BY_CATEGORY[category]
    plain, other = _BY_FIRST[category[0]]
    return plain if character.isascii() else other


@lru_cache
def assigned() -> str:
    """Every character that is neither private nor unassigned, in order."""
    return "".join(
        chr(code)
        for code in _PLANES_IN_USE
        if code not in _SURROGATES and unicodedata.category(chr(code)) not in ("Cn", "Co")
    )


@lru_cache
def rare_characters() -> str:
    """Every rare character that is assigned, and examples of code points that are not."""
    found = (char for char in assigned() if kind_of(char) in RARE)
    return "".join(dict.fromkeys((*found, *map(chr, _OUTSIDE))))


@lru_cache
def special_spaces() -> str:
    """Every space but the ordinary one."""
    return "".join(char for char in assigned() if unicodedata.category(char) == "Zs")[1:]


@lru_cache
def sample_characters() -> str:
    """A character of each category among every 128 code points, and all up to U+024F."""
    kinds: dict[tuple[int, str], str] = {}
    for char in assigned():
        code = ord(char)
        kinds.setdefault(
            (code if code < 0x250 else -code // _STEP, unicodedata.category(char)), char
        )
    return "".join(kinds.values())


def alike(characters: str) -> str:
    """The inside of a bracket of ``regex``: these, and all of an open kind if one of them is."""
    kinds = {kind_of(char) for char in characters}
    codes = list(map(ord, characters))
    if "unassigned code points" in kinds:
        known = set(map(ord, assigned()))
        codes += [code for code in _PLANES_IN_USE if code not in known and not _is_private(code)]
    ranges = _ranges(codes)
    if "unassigned code points" in kinds:
        ranges += [[0x40000, 0xDFFFF], [0xE1000, 0xEFFFF]]
    if "private-use characters" in kinds:
        ranges += map(list, _PRIVATE)
    return "".join(rf"\U{low:08X}-\U{high:08X}" for low, high in ranges)


def _is_private(code: int) -> bool:
    return code in _SURROGATES or any(low <= code <= high for low, high in _PRIVATE)


def shown(characters: Iterable[str]) -> str:
    """Code points as ranges, such as ``U+000B, U+000E to U+001A``; six of them at most."""
    ranges = _ranges(map(ord, characters))
    names = [
        f"U+{low:04X}" if low == high else f"U+{low:04X} to U+{high:04X}" for low, high in ranges
    ]
    more = sum(high - low + 1 for low, high in ranges[6:])
    return ", ".join(names[:6]) + (f" and {more} more" if more else "")


def _ranges(codes: Iterable[int]) -> list[list[int]]:
    """The (first, last) of each run of successive numbers."""
    ranges: list[list[int]] = []
    for code in sorted(set(codes)):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return ranges
