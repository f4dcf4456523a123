"""Boundaries: rules that propose where a draft may be cut, from its text alone.

A cut at ``p`` leaves ``text[:p]`` and ``text[p:]``. Every tokenizer has to ratify it
(``coolfusion.tokenization.alignment``). White space stays with the word after it, and the
segments of a text join to the text unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import regex

from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.errors import UsageError

# No-break spaces hold a number together (10 000 km), so they are not places to cut.
_SPACE = r"[\s--[\u00a0\u2007\u202f]]"
_WORD_CUT = regex.compile(rf"(?<=\S)(?={_SPACE}+\S)", regex.V1)
_SPACES = regex.compile(rf"{_SPACE}+", regex.V1)
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u3000-\u303f\uff00-\uffef]"
_UNSPACED_CHARACTER = regex.compile(_UNSPACED, regex.V1)
_UNICODE_WORD_EDGE = regex.compile(r"\b|(?<=\W)(?=\W)", regex.V1 | regex.WORD)
_GLUE = regex.compile(r"[\p{M}\p{Cf}\p{Sk}]")
_SENTENCE_END = regex.compile(
    r"[.!?\u2026\u3002\uff01\uff1f\u0964\u06d4]['\"\u2019\u201d)\]\u300d]*$"
)


@dataclass(frozen=True, slots=True)
@checked_fields
class Boundary:
    """A named rule that proposes cuts.

    ``propose`` maps a text to ascending positions strictly inside it. After ``max_tokens`` tokens
    a draft is cut even without a boundary (None: no limit of its own).
    """

    name: str
    propose: Callable[[str], Iterable[int]]
    max_tokens: int | None = 64


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that has no spaces between words."""
    return _UNSPACED_CHARACTER.match(character) is not None


def _word_cuts(text: str) -> list[int]:
    cuts = {match.start() for match in _WORD_CUT.finditer(text)}
    if _UNSPACED_CHARACTER.search(text):
        cuts.update(_unspaced_cuts(text))
    return sorted(cuts)


def _unspaced_cuts(text: str) -> Iterable[int]:
    """Unicode word edges next to a character of a script without spaces."""
    for match in _UNICODE_WORD_EDGE.finditer(text):
        cut = match.start()
        if not 0 < cut < len(text):
            continue
        left, right = text[cut - 1], text[cut]
        touches = _UNSPACED_CHARACTER.match(left) or _UNSPACED_CHARACTER.match(right)
        joined = _GLUE.match(right) or left == "\u200d" or (left.isdigit() and right.isdigit())
        if touches and not joined and not left.isspace() and _has_word_after(text, cut):
            yield cut


def _has_word_after(text: str, cut: int) -> bool:
    return not text[cut:].isspace()


def _space_after(text: str, cut: int) -> str:
    run = _SPACES.match(text, cut)
    return run.group() if run else ""


def _line_cuts(text: str) -> list[int]:
    return [cut for cut in _word_cuts(text) if "\n" in _space_after(text, cut)]


def _sentence_cuts(text: str) -> list[int]:
    return [
        cut
        for cut in _word_cuts(text)
        if _SENTENCE_END.search(text, max(0, cut - 8), cut)
        or _space_after(text, cut).count("\n") > 1
    ]


@checked
def phrases(num_words: int) -> Boundary:
    """Cut at every ``num_words``-th word; ``phrases(1)`` is ``words``.

    Raises ``UsageError`` below 1.
    """
    if num_words < 1:
        raise UsageError(
            f"phrases({num_words}) would be segments without words. Use phrases(1) or more."
        )
    return Boundary(
        f"phrases({num_words})",
        lambda text: _word_cuts(text)[num_words - 1 :: num_words],
        64 * num_words,
    )


words = Boundary("words", _word_cuts)
lines = Boundary("lines", _line_cuts, None)
sentences = Boundary("sentences", _sentence_cuts, None)
whole_response = Boundary("whole_response", lambda _: (), None)


@checked
def boundary_named(name: str) -> Boundary:
    """Look up a built-in boundary: words, phrases(n), lines, sentences or whole_response.

    Raises ``UsageError`` for other names.
    """
    known = {rule.name: rule for rule in (words, lines, sentences, whole_response)}
    counted = regex.fullmatch(r"phrases[(:=]?(\d+)\)?", name)
    if counted:
        return phrases(int(counted.group(1)))
    if name not in known:
        raise UsageError(
            f'There is no boundary "{name}". Choose one of {", ".join(known)} or phrases(n).'
        )
    return known[name]
