"""The canonical encoding of a response, extended by encoding a bounded window of recent text.

A source's ids for a response are ``tokenizer.encode(response)``. They do not depend on which
source drafted which segment, on caches or on speculation. To encode the whole response after
every segment would be quadratic, so ids before a settled position are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import regex

from coolfusion.tokenization.base import Tokenizer

# A pre-tokenizer may look ahead, so a split that is safe now may not be safe after more text.
# In Llama 3, "x" and "  " are tokens of "x  ", but "x", " " and " a" those of "x  a".
WINDOW = 48  # characters that must follow a position before it may be settled
_WORD_START = regex.compile(r"(?<=\S)(?=\s)")


@dataclass(frozen=True, slots=True)
class Canonical:
    """``ids`` of a text; more text cannot change the first ``num_settled``.

    ``tail`` is the text of the others.
    """

    ids: tuple[int, ...] = ()
    num_settled: int = 0
    tail: str = ""


def extend(
    canonical: Canonical, text: str, tokenizer: Tokenizer, window: int = WINDOW
) -> Canonical:
    """Append ``text``; the result's ids equal those of encoding the whole text at once.

    A smaller ``window`` (characters) encodes less text again. No pre-tokenizer may look ahead
    farther than that.
    """
    tail = canonical.tail + text
    ids = canonical.ids[: canonical.num_settled] + tokenizer.encode(tail)
    # At twice the window there is one behind any cut and about one to settle: a cut is sought
    # once per window of text, not once per call.
    if len(tail) <= 2 * window:
        return Canonical(ids, canonical.num_settled, tail)
    cut = _settling_cut(tail, tokenizer, window)
    if cut is None:
        return Canonical(ids, canonical.num_settled, tail)
    num_settled = canonical.num_settled + len(tokenizer.encode(tail[:cut]))
    return Canonical(ids, num_settled, tail[cut:])


def splits(left: str, right: str, tokenizer: Tokenizer) -> bool:
    """Whether encoding the two sides apart gives the same ids as encoding them together."""
    return tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right)


def common_length(left: Canonical, right: Canonical) -> int:
    """Length of the longest common prefix of the ids of a text and of its extension."""
    # Settled ids are equal, since the right text continues the left one. To compare only the
    # others makes this independent of the length of the text.
    start = min(left.num_settled, right.num_settled)
    end = min(len(left.ids), len(right.ids))
    for position in range(start, end):
        if left.ids[position] != right.ids[position]:
            return position
    return end


def _settling_cut(tail: str, tokenizer: Tokenizer, window: int) -> int | None:
    """The last safe position with a full window of text behind it.

    Word starts are tried first. A text without any (a script without spaces, a long number)
    is settled between characters, with twice the distance from both ends.
    """
    # The window alone is not enough. Encodings of both sides apart must also join to the whole:
    # white space may begin inside a token, as in ".\n", which is one token of Llama 3.
    starts: list[int] = [
        match.start() for match in _WORD_START.finditer(tail, 1, len(tail) - window)
    ]
    # A few tries bound the work of one call; the next call has more text and other cuts.
    for cut in reversed(starts[-8:]):
        if splits(tail[:cut], tail[cut:], tokenizer):
            return cut
    if not starts and len(tail) > 6 * window:
        edges: list[int] = [m.start() for m in regex.finditer(r"\X", tail[: -2 * window])][
            2 * window :
        ]
        for cut in reversed(edges[-8:]):
            if splits(tail[:cut], tail[cut:], tokenizer):
                return cut
    return None
