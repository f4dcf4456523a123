"""Where a draft may be cut: functions from text to ascending cut positions.

A cut at ``p`` leaves ``text[:p]`` and ``text[p:]``; it is proposed here from the text alone
and ratified by every tokenizer in ``coolfusion.tokenization.huggingface.alignment``. All cuts keep white space with
the word that follows it, so joined segments always give the text back unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import regex

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
class Boundary:
    """A named rule that proposes cuts, and how long a draft may look for one.

    ``propose`` maps a text to ascending positions strictly inside it. ``max_tokens`` is the
    number of tokens after which a draft is cut without a boundary (None: no cap of its own).
    """

    name: str
    propose: Callable[[str], Iterable[int]]
    max_tokens: int | None = 64


def is_unspaced(character: str) -> bool:
    """Whether it is of a script whose words are written without spaces between them."""
    return _UNSPACED_CHARACTER.match(character) is not None


def _word_cuts(text: str) -> list[int]:
    cuts = {match.start() for match in _WORD_CUT.finditer(text)}
    if _UNSPACED_CHARACTER.search(text):
        cuts.update(_unspaced_cuts(text))
    return sorted(cuts)


def _unspaced_cuts(text: str) -> Iterable[int]:
    """Unicode word edges that touch a script written without spaces."""
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


def phrases(num_words: int) -> Boundary:
    """Cut at every ``num_words``-th word; ``phrases(1)`` is ``words``."""
    if num_words < 1:
        raise UsageError(f"phrases({num_words}) has no words to hold. ModelRequest for at least 1.")
    return Boundary(
        f"phrases({num_words})",
        lambda text: _word_cuts(text)[num_words - 1 :: num_words],
        64 * num_words,
    )


words = Boundary("words", _word_cuts)
lines = Boundary("lines", _line_cuts, None)
sentences = Boundary("sentences", _sentence_cuts, None)
whole_response = Boundary("whole_response", lambda _: (), None)


def boundary_named(name: str) -> Boundary:
    """Look a built-in boundary up: words, phrases(n), lines, sentences or whole_response."""
    known = {rule.name: rule for rule in (words, lines, sentences, whole_response)}
    counted = regex.fullmatch(r"phrases[(:=]?(\d+)\)?", name)
    if counted:
        return phrases(int(counted.group(1)))
    if name not in known:
        raise UsageError(
            f'There is no boundary "{name}". Choose one of {", ".join(known)} or phrases(n).'
        )
    return known[name]
