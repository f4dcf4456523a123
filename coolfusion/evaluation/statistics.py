"""Uncertainty of a difference: bootstrap intervals and paired tests, exact for few pairs.

Every random function has a seed and gives the same numbers for the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from coolfusion.checks.arguments import check_setting, checked
from coolfusion.errors import UsageError
from coolfusion.types import Floats

MAX_ROWS = 10**6  # of a task
MAX_RESAMPLES = 10**7
MAX_EXACT: Final = 12  # pairs up to which all sign changes are tried
_CHUNK: Final = 4_000_000  # entries of a resampled array that are held at a time


@checked
def bootstrap_interval(
    values: Sequence[float] | Floats,
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` (n,) (Efron 1979).

    Equal values have an interval of width 0. Raises ``UsageError`` without values, or for a level
    outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size == 0:
        raise UsageError("An interval needs at least one value, got none.")
    if not 0 < level < 1:
        raise UsageError(f"The level is {level}; it must lie between 0 and 1.")
    _check_resampling(num_resamples, seed)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // sample.size)
    means = np.concatenate(
        [
            sample[
                rng.integers(0, sample.size, (min(rows, num_resamples - done), sample.size))
            ].mean(axis=1)
            for done in range(0, num_resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of(values: Floats, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of ``values`` (n,); NaN where there are none."""
    return bootstrap_interval(values, seed=seed) if values.size else (math.nan, math.nan)


@checked
def exact_mcnemar(num_fixed: int, num_broken: int) -> float:
    """Two-sided exact McNemar p-value of two systems that differ on some 0/1 outcomes.

    Only the first system solves ``num_fixed`` rows, only the second ``num_broken``. Under the
    null hypothesis each of these rows is a fair coin. So the p-value is a binomial tail, doubled
    and at most 1.
    """
    for name, count in (("num_fixed", num_fixed), ("num_broken", num_broken)):
        check_setting(0 <= count <= MAX_ROWS, name, count, f"from 0 to {MAX_ROWS}")
    total = num_fixed + num_broken
    term, tail = 1, 1
    for count in range(min(num_fixed, num_broken)):
        term = term * (total - count) // (count + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << total))


@checked
def paired_permutation(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the mean difference of pairs (n,), by a sign-flip permutation test.

    For up to ``MAX_EXACT`` differing pairs, all 2^n sign changes are tried. For more, the p-value
    is the share of ``num_resamples`` random ones, with the observed one counted among them.
    """
    _check_pairs(len(first), len(second))
    _check_resampling(num_resamples, seed)
    pairs: Floats = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    differences: Floats = pairs[pairs != 0]
    if differences.size == 0:
        return 1.0
    # Sums that differ by rounding alone are ties, and ties count.
    observed = abs(differences.sum()) - 1e-9 * np.abs(differences).sum()
    if differences.size <= MAX_EXACT:
        codes = np.arange(2**differences.size)[:, None] >> np.arange(differences.size)
        sums = np.where(codes & 1, 1.0, -1.0) @ differences
        return float(np.mean(np.abs(sums) >= observed))
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // differences.size)
    num_extreme = 0
    for done in range(0, num_resamples, rows):
        shape = (min(rows, num_resamples - done), differences.size)
        sums = rng.choice(np.array([-1.0, 1.0]), shape) @ differences
        num_extreme += int((np.abs(sums) >= observed).sum())
    return (1 + num_extreme) / (1 + num_resamples)


@checked
def paired_p_value(
    first: Sequence[float] | Floats, second: Sequence[float] | Floats, *, seed: int = 0
) -> float:
    """Exact McNemar p-value if all values are 0 or 1, else that of the permutation test.

    Raises ``UsageError`` for different numbers of values.
    """
    _check_pairs(len(first), len(second))
    check_setting(seed >= 0, "seed", seed, "0 or above")
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if np.isin(np.concatenate([one, other]), (0.0, 1.0)).all():
        return exact_mcnemar(int((one > other).sum()), int((one < other).sum()))
    return paired_permutation(one, other, seed=seed)


def _check_pairs(num_first: int, num_second: int) -> None:
    if num_first != num_second:
        raise UsageError(
            f"The values of first and second are pairs, but they are {num_first} and {num_second}."
        )


def _check_resampling(num_resamples: int, seed: int) -> None:
    usable = 1 <= num_resamples <= MAX_RESAMPLES
    check_setting(usable, "num_resamples", num_resamples, f"from 1 to {MAX_RESAMPLES}")
    check_setting(seed >= 0, "seed", seed, "0 or above")
