"""What decoding is measured by while it runs: how fast a source is, how often guesses hold.

Both only ever decide what to try next; no text depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_KEEP = 0.95  # weight that an earlier measurement keeps when a new one arrives
_GUESS_KEEP = 0.85  # the same for guesses, which are fewer


@dataclass(slots=True)
class Pace:
    """Seconds of a forward pass, fitted as ``per_pass + per_token * tokens``.

    Weighted least squares on relative errors; recent passes count most.
    """

    per_pass: float = 0.01
    per_token: float = 0.001
    _pp: float = 0.0
    _pt: float = 0.0
    _tt: float = 0.0
    _ps: float = 0.0
    _ts: float = 0.0

    def observe(self, num_passes: int, num_tokens: int, seconds: float) -> None:
        """Learn from a call that took so many passes over so many tokens."""
        if not num_passes or seconds <= 0:
            return
        passes, tokens = num_passes / seconds, num_tokens / seconds
        self._pp = _KEEP * self._pp + passes * passes
        self._pt = _KEEP * self._pt + passes * tokens
        self._tt = _KEEP * self._tt + tokens * tokens
        self._ps = _KEEP * self._ps + passes
        self._ts = _KEEP * self._ts + tokens
        determinant = self._pp * self._tt - self._pt * self._pt
        if determinant > 1e-3 * self._pp * self._tt:
            self.per_pass = (self._ps * self._tt - self._ts * self._pt) / determinant
            self.per_token = (self._ts * self._pp - self._ps * self._pt) / determinant
        if determinant <= 1e-3 * self._pp * self._tt or self.per_token < 0:
            # One kind of pass says nothing of how its cost divides: nearly all is the pass.
            self.per_token = 0.1 * self._ts / self._tt
            self.per_pass = 0.9 * self._ps / self._pp
        elif self.per_pass < 0:
            self.per_pass, self.per_token = 0.0, self._ts / self._tt

    def seconds(self, num_tokens: float, num_texts: int = 1) -> float:
        """What ``num_tokens`` of one text cost in a pass that ``num_texts`` texts share."""
        return self.per_pass / num_texts + self.per_token * num_tokens


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
