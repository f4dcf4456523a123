"""What one text has lost of another, by kinds: white space, case, accents, characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache

from coolfusion.tokenization.fidelity.code_points import kind_of

_SPACES = " \t\n\r"


def same(text: str, got: str) -> bool:
    """Whether both are one text in normalisation form C."""
    return got == text or unicodedata.normalize("NFC", got) == unicodedata.normalize("NFC", text)


def differences(text: str, got: str) -> Iterator[tuple[str, str]]:
    """What ``got`` has lost of ``text`` or added to it: kinds, each with its characters."""
    text, got = (unicodedata.normalize("NFC", each) for each in (text, got))
    if unicodedata.normalize("NFKC", text) == got:
        yield from ((_compatible_kind(char), char) for char in text if _compatible(char) != char)
        return
    # Characters that differ by case, accent or form alone stand opposite each other.
    folded, got_folded = ([_folded(char) for char in each] for each in (text, got))
    edits = SequenceMatcher(None, folded, got_folded, autojunk=False).get_opcodes()
    for tag, low, high, start, end in edits:
        old, new = text[low:high], got[start:end]
        if tag == "equal":
            for one, other in zip(old, new, strict=True):
                if one != other:
                    yield from _sign_kinds(one, other)
        else:
            around = text[max(0, low - 1) : low] + text[high : high + 1]
            yield from _changed(old, new, low == 0, high == len(text), around)


def _changed(old: str, new: str, first: bool, last: bool, around: str) -> Iterator[tuple[str, str]]:
    """Kinds of one change of ``old`` into ``new``, at the ``first`` or ``last`` place of a text."""
    signs, other_signs = _without_spaces(old), _without_spaces(new)
    gone, came = ("".join(char for char in each if char in _SPACES) for each in (old, new))
    # What became a space is lost itself; no space was added.
    if gone != came and not (signs and not gone and not other_signs):
        yield _space_kind(gone, came, first, last, around), gone
    if signs != other_signs:
        yield from _sign_kinds(signs, other_signs)


def _space_kind(gone: str, came: str, first: bool, last: bool, around: str) -> str:
    for char, kind in (("\n", "line breaks"), ("\r", "line breaks"), ("\t", "tabs")):
        if char in gone:
            return kind
    if first or last:
        return "a leading space" if first else "a trailing space"
    if not gone:
        return "words without a space between them"
    lonely = not came and len(gone) == 1 and not any(char in _SPACES for char in around)
    return "single spaces" if lonely else "runs of white space"


def _sign_kinds(old: str, new: str) -> Iterator[tuple[str, str]]:
    if not old:
        yield "text that appears", ""
    elif new and _compatible(old) == new:
        yield from ((_compatible_kind(char), char) for char in old if _compatible(char) != char)
    elif new and _bare(old).casefold() == _bare(new).casefold():
        if _bare(old) != _bare(new):
            yield "capital letters", old
        if _marks(old) != _marks(new):
            yield "accents", old
    else:
        for char in old:
            if char not in new or len(old) > len(new):
                yield kind_of(char), char


def _without_spaces(text: str) -> str:
    return "".join(char for char in text if char not in _SPACES)


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _compatible_kind(char: str) -> str:
    kind = kind_of(char)
    return kind if kind == "special spaces" else "full-width and other compatible forms"


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    return _bare(_compatible(char)).casefold() or char


def _marks(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(char for char in decomposed if unicodedata.category(char) == "Mn")


def _bare(text: str) -> str:
    """The text without accents."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
