"""Guesses of the coming text: how far one held, and how many tokens one is worth.

The acceptance of guesses only decides what to try next; no text depends on it. The model is that
of speculative decoding (Leviathan et al., arXiv 2211.17192, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field

# An earlier observation keeps this much of its weight when a new one arrives. Guesses are fewer
# than forward passes, so it forgets faster than the pace of a source does (answer_cache._KEEP).
_GUESS_KEEP = 0.85
_RETURN = 0.02  # share of the way back to the prior, each time another guesser was used


@dataclass(slots=True)
class Acceptance:
    """How often one more token of a guess turns out right; begins with ``prior`` counts."""

    prior: tuple[float, float] = (8.0, 0.5)
    _right: float = field(default=-1.0)
    _wrong: float = field(default=-1.0)

    def __post_init__(self) -> None:
        self._right, self._wrong = self.prior

    @property
    def rate(self) -> float:
        """Share of tokens that hold, given that all before them did."""
        return self._right / (self._right + self._wrong)

    def observe(self, num_right: float, *, failed: bool) -> None:
        """Learn from a guess of which ``num_right`` tokens held before one did not, if any."""
        # A guess stops at its first wrong token. So it holds one failure at most, and what comes
        # after that token says nothing.
        self._right = _GUESS_KEEP * self._right + num_right
        self._wrong = _GUESS_KEEP * self._wrong + failed

    def forget(self) -> None:
        """Return towards the prior a little, so that what once failed is tried again."""
        # Without this, a guesser with a bad start would never be tried again, since only the
        # chosen guesser is observed.
        self._right += _RETURN * (self.prior[0] - self._right)
        self._wrong += _RETURN * (self.prior[1] - self._wrong)


def expected_tokens(rate: float, length: int) -> float:
    """Expected tokens of a guess of ``length``: those that hold, and the one after them.

    With acceptance ``a`` per token this is (1 - a**length) / (1 - a), equation (1) of
    arXiv 2211.17192 for ``length - 1`` guessed tokens.
    """
    return float(length) if rate >= 1.0 else (1.0 - rate**length) / (1.0 - rate)


# Characters that must have been seen before for a look-up. Shorter keys match by chance; longer
# ones miss what changed a word ago. In characters, so that it fits every tokenizer.
KEY = 12


@dataclass(frozen=True, slots=True)
class Guess:
    """``text`` that may follow the first ``start`` characters of a response.

    ``ends`` says that the response is guessed to end after it. ``num_tokens`` is its length
    in the guesser's tokens.
    """

    start: int
    text: str
    ends: bool
    num_tokens: float

    @property
    def end(self) -> int:
        """Where in the response it would end."""
        return self.start + len(self.text)

    def num_right(self, response: str) -> int:
        """How many of its characters the response has confirmed."""
        said = response[self.start : self.end]
        if self.text.startswith(said):
            return len(said)
        return next(
            i for i, (one, other) in enumerate(zip(said, self.text, strict=False)) if one != other
        )

    def failed(self, response: str) -> bool:
        """Whether the response says something else."""
        return self.start + self.num_right(response) < min(len(response), self.end)

    def remains(self, response: str) -> bool:
        """Whether there is something left of it that may still come true."""
        # A guessed end is still open when all its text has been confirmed.
        is_over = len(response) > self.end or (len(response) == self.end and not self.ends)
        return not is_over and not self.failed(response)


def look_up(text: str, num_chars: int) -> str:
    """What followed the last words of ``text`` when they were last said in it.

    At most ``num_chars`` characters; empty where they are new. The published name is prompt
    look-up decoding.
    """
    key = text[-KEY:]
    # Subtle: the bound excludes the key's own place only. An earlier one may overlap it, as in
    # "ababab", where what follows is the rest of the repetition.
    place = text.rfind(key, 0, len(text) - 1) if len(key) == KEY else -1
    return "" if place < 0 else text[place + KEY : place + KEY + num_chars]
