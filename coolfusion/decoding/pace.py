"""The pace of a model: how long a call takes, by the number of positions that it asks about.

The truth may be any curve. A model on a GPU takes the same time for 1 position as for 50. One on
a CPU may take twice as long for 2 as for 1, and no longer for 8. So what was measured at a size
counts there. For sizes that were never asked, a line through the measured ones speaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# A measurement keeps this much of its weight with every later call, of whatever size. A size is
# forgotten once too little is left. So one that was slow by accident is tried again, but rarely.
_KEEP = 0.99
_FORGOTTEN = 0.05
_LINE = 0.2  # measurements that the line counts as, at a size


@dataclass(slots=True)
class _Size:
    """Calls of about one size: the mean logarithms of their seconds and of their positions."""

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
    """Seconds of a call, learnt from calls. Before the first, all are the given line.

    ``per_pass`` and ``per_token`` are the line: weighted least squares on relative errors.
    """

    per_pass: float = 0.01
    per_token: float = 0.001
    _sizes: dict[int, _Size] = field(default_factory=dict)

    def observe(self, num_positions: int, seconds: float) -> None:
        """Learn from a call that asked about so many positions."""
        if num_positions <= 0 or seconds <= 0:
            return
        for size in self._sizes.values():
            size.weight *= _KEEP
        self._sizes = {k: s for k, s in self._sizes.items() if s.weight >= _FORGOTTEN}
        self._sizes.setdefault(_class(num_positions), _Size()).observe(num_positions, seconds)
        self._fit()

    def seconds(self, num_positions: float, num_texts: int = 1) -> float:
        """What ``num_positions`` of one text cost in a call that ``num_texts`` texts share."""
        whole = max(1.0, num_positions * num_texts)
        line = self.per_pass + self.per_token * whole
        size = self._sizes.get(_class(whole))
        if size is not None:
            measured = self.per_pass + self.per_token * math.exp(size.log_positions)
            share = size.weight / (size.weight + _LINE)
            line *= math.exp(share * (size.log_seconds - math.log(measured)))
        return line / num_texts

    def _fit(self) -> None:
        """Draw the line through what was measured at every size."""
        pp = pt = tt = ps = ts = 0.0
        for size in self._sizes.values():
            passes, tokens = math.exp(-size.log_seconds), math.exp(size.log_positions)
            tokens *= passes
            pp += size.weight * passes * passes
            pt += size.weight * passes * tokens
            tt += size.weight * tokens * tokens
            ps += size.weight * passes
            ts += size.weight * tokens
        determinant = pp * tt - pt * pt
        # One size says nothing of how its cost divides: nearly all is the pass.
        self.per_pass, self.per_token = 0.9 * ps / pp, 0.1 * ts / tt
        if len(self._sizes) > 1 and determinant > 1e-9 * pp * tt:
            per_pass, per_token = (
                (ps * tt - ts * pt) / determinant,
                (ts * pp - ps * pt) / determinant,
            )
            if per_pass < 0:
                self.per_pass, self.per_token = 0.0, ts / tt
            elif per_token >= 0:
                self.per_pass, self.per_token = per_pass, per_token


def _class(num_positions: float) -> int:
    """The size that a number of positions counts as: each up to 4, then two to an octave."""
    return round(num_positions if num_positions <= 4 else 2 * math.log2(num_positions))
