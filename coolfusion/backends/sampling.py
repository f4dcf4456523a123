"""Sampling: the greedy pick, or a random one with noise that depends on (seed, position) alone.

A pick depends on the distribution, the sampling and the position, and on nothing else. This is
the numpy version, for exact models and for mixtures. Backends with torch tensors sample there,
with other noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coolfusion.checks.arguments import check_setting, checked_fields
from coolfusion.types import Floats

# Log-probabilities of half precision divided by these stay finite, and none becomes NaN.
TEMPERATURES = (1e-6, 1e6)


@dataclass(frozen=True, slots=True)
@checked_fields
class Sampling:
    """How a source picks its next token.

    Temperature 0 is greedy. Otherwise the pick is the argmax of the filtered, tempered
    log-probabilities plus Gumbel noise. The noise is a function of (seed, position) alone, so a
    pick never depends on how or when it was computed. Raises ``UsageError`` for values that make no
    sense.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = TEMPERATURES
        usable = self.temperature == 0 or least <= self.temperature <= most
        wanted = f"a finite number: 0 (greedy), or from {least:g} to {most:g}"
        check_setting(usable, "temperature", self.temperature, wanted)
        check_setting(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        check_setting(self.top_k >= 0, "top_k", self.top_k, "0 (off) or above")
        check_setting(self.seed >= 0, "seed", self.seed, "0 or above")

    @property
    def is_greedy(self) -> bool:
        """Whether picks are plain argmaxes."""
        return self.temperature == 0.0


GREEDY = Sampling()


_OF_DRAWS = 1  # makes the noise of ``draw`` differ from that of ``pick``


def log_sum_exp(log_values: Floats) -> float:
    """Logarithm of the sum of the exponentials; -inf if all of them are 0.

    For rows as long as a vocabulary, where ``np.logaddexp.reduce`` adds one by one and is slow.
    """
    peak = log_values.max(initial=-np.inf)
    if not np.isfinite(peak):
        return float(peak)
    return float(peak + np.log(np.exp(log_values - peak).sum()))


def filtered(log_probs: Floats, sampling: Sampling) -> Floats:
    """The distribution (outcomes,) that ``pick`` draws from, in nats; -inf for what it never picks.

    Probabilities are raised to 1 / temperature. Then ``top_k`` keeps that many of the likeliest
    outcomes. Of these, ``top_p`` keeps the fewest that have this share of their mass. The rest is
    normalised to sum to 1. At temperature 0 one outcome is left.
    """
    if sampling.is_greedy:
        certain = np.full(len(log_probs), -np.inf)
        certain[int(log_probs.argmax())] = 0.0
        return certain
    kept = _kept(log_probs, sampling)
    normalized: Floats = kept - log_sum_exp(kept)
    return normalized


def pick(log_probs: Floats, sampling: Sampling, position: int) -> int:
    """The outcome picked at ``position`` from log-probabilities (outcomes,) in nats."""
    if sampling.is_greedy:
        return int(log_probs.argmax())
    return int((_kept(log_probs, sampling) + noise(sampling, position, len(log_probs))).argmax())


def noise(sampling: Sampling, position: int, size: int) -> Floats:
    """Gumbel noise (size,) of a position; the argmax of log-probabilities plus it is a sample."""
    return np.random.default_rng([sampling.seed, position]).gumbel(size=size)


def draw(weights: Floats, seed: int, position: int) -> int:
    """The index drawn at ``position`` with probabilities proportional to ``weights`` (n,) >= 0.

    The noise differs from that of ``pick`` with the same seed.
    """
    ends = np.cumsum(weights)
    mark = np.random.default_rng([seed, position, _OF_DRAWS]).random() * ends[-1]
    return min(int(np.searchsorted(ends, mark, side="right")), int(np.flatnonzero(weights)[-1]))


def _kept(log_probs: Floats, sampling: Sampling) -> Floats:
    """Tempered log-probabilities (outcomes,); -inf for outcomes that the filters drop."""
    tempered: Floats = log_probs / sampling.temperature
    tempered = tempered - log_sum_exp(tempered)
    if sampling.top_k <= 0 and sampling.top_p >= 1.0:
        return tempered
    ranked = _ranked(tempered, sampling)
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p < 1.0:
        total = log_sum_exp(tempered[ranked]) if sampling.top_k > 0 else 0.0
        mass = np.cumsum(np.exp(tempered[ranked] - total))
        ranked = ranked[: int(np.searchsorted(mass, sampling.top_p)) + 1]
    kept = np.full(len(tempered), -np.inf)
    kept[ranked] = tempered[ranked]
    return kept


def _ranked(tempered: Floats, sampling: Sampling) -> NDArray[np.int64]:
    """All outcomes that the filters may keep, the likeliest first; equally likely ones in order.

    Only outcomes that can be kept are sorted, since a whole vocabulary sorts slowly. Outcomes
    less likely than (1 - top_p) / size have at most 1 - top_p together.
    """
    size, edge = len(tempered), -np.inf
    if 0 < sampling.top_k < size:
        edge = float(np.partition(tempered, -sampling.top_k)[-sampling.top_k])
    elif sampling.top_k <= 0:
        edge = float(np.log((1.0 - sampling.top_p) / size)) - 1e-6
    candidates = np.flatnonzero(tempered >= edge)
    return candidates[np.argsort(-tempered[candidates], kind="stable")]
