"""What decoding is measured by while it runs: how fast a source is, how often guesses hold.

Both only ever decide what to try next; no text depends on them.

A guess of the coming text: where it stands and how far it held.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_GUESS_KEEP = 0.85  # the same for guesses, which are fewer


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
        self._right = _GUESS_KEEP * self._right + num_right
        self._wrong = _GUESS_KEEP * self._wrong + failed

    def forget(self) -> None:
        """Return towards the prior a little, so that what once failed is tried again."""
        self._right += 0.02 * (self.prior[0] - self._right)
        self._wrong += 0.02 * (self.prior[1] - self._wrong)


def expected_tokens(rate: float, length: int) -> float:
    """How many tokens a guess of ``length`` is worth: those that hold, and the one after them."""
    return float(length) if rate >= 1.0 else (1.0 - rate**length) / (1.0 - rate)


KEY = 12  # characters that must have been seen before for a look-up


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
        is_over = len(response) > self.end or (len(response) == self.end and not self.ends)
        return not is_over and not self.failed(response)


def look_up(text: str, num_chars: int) -> str:
    """What followed the last words of ``text`` when they were last said in it.

    At most ``num_chars`` characters; empty where they are new. The published name is prompt
    look-up decoding.
    """
    key = text[-KEY:]
    place = text.rfind(key, 0, len(text) - 1) if len(key) == KEY else -1
    return "" if place < 0 else text[place + KEY : place + KEY + num_chars]
