"""The pace of a model: how long a call takes, by the number of positions that it asks about.

The truth may be any curve. A model on a GPU takes the same time for 1 position as for 50. One on
a CPU may take twice as long for 2 as for 1, and no longer for 8. So what was measured at a size
counts there, and a line through all measurements speaks for sizes that were never asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

_KEEP = 0.95  # weight that an earlier measurement keeps in the line when a new one arrives
# The same at one size. It forgets slowly, since calls of other sizes make it forget as well, and
# it forgets at all so that a size that was slow once is tried again.
_KEEP_SIZE = 0.99
_LINE = 0.5  # measurements that the line counts as, at a size


@dataclass(slots=True)
class _Size:
    """The mean logarithms of seconds and positions of calls of about one size."""

    weight: float = 0.0
    log_seconds: float = 0.0
    log_positions: float = 0.0

    def observe(self, num_positions: int, seconds: float) -> None:
        # Means of logarithms: a call that was held up counts little.
        self.weight += 1
        self.log_seconds += (math.log(seconds) - self.log_seconds) / self.weight
        self.log_positions += (math.log(num_positions) - self.log_positions) / self.weight


@dataclass(slots=True)
class Pace:
    """Seconds of a call, learnt from calls. All of one begin at ``per_pass`` and ``per_token``.

    The line is the weighted least squares fit on relative errors. Recent calls count most.
    """

    per_pass: float = 0.01
    per_token: float = 0.001
    _pp: float = 0.0
    _pt: float = 0.0
    _tt: float = 0.0
    _ps: float = 0.0
    _ts: float = 0.0
    _sizes: dict[int, _Size] = field(default_factory=dict)

    def observe(self, num_positions: int, seconds: float) -> None:
        """Learn from a call that asked about so many positions."""
        if num_positions <= 0 or seconds <= 0:
            return
        self._fit(1 / seconds, num_positions / seconds)
        for size in self._sizes.values():
            size.weight *= _KEEP_SIZE
        self._sizes.setdefault(_class(num_positions), _Size()).observe(num_positions, seconds)

    def seconds(self, num_positions: float, num_texts: int = 1) -> float:
        """What ``num_positions`` of one text cost in a call that ``num_texts`` texts share."""
        whole = max(1.0, num_positions * num_texts)
        line = self.per_pass + self.per_token * whole
        size = self._sizes.get(_class(round(whole)))
        if size is not None:
            measured = self.per_pass + self.per_token * math.exp(size.log_positions)
            share = size.weight / (size.weight + _LINE)
            line *= math.exp(share * (size.log_seconds - math.log(measured)))
        return line / num_texts

    def _fit(self, passes: float, tokens: float) -> None:
        """Add a call to the line: one pass and its positions, both by its seconds."""
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
            # One kind of call says nothing of how its cost divides: nearly all is the pass.
            self.per_token = 0.1 * self._ts / self._tt
            self.per_pass = 0.9 * self._ps / self._pp
        elif self.per_pass < 0:
            self.per_pass, self.per_token = 0.0, self._ts / self._tt


@lru_cache(maxsize=1024)
def _class(num_positions: int) -> int:
    """The size that a number of positions counts as: each up to 4, then two to an octave."""
    return num_positions if num_positions <= 4 else round(2 * math.log2(num_positions))
