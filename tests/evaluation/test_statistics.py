"""Intervals and tests: bounds, symmetries, and numbers that can be had another way."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import UsageError
from coolfusion.evaluation.statistics import (
    bootstrap_interval,
    exact_mcnemar,
    paired_p_value,
    paired_permutation,
)

numbers = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
bits = st.integers(0, 1).map(float)


@settings(max_examples=30)
@given(st.lists(numbers, min_size=1, max_size=60), st.integers(0, 3))
def test_an_interval_holds_the_mean_and_lies_within_the_values(
    values: list[float], seed: int
) -> None:
    low, high = bootstrap_interval(values, num_resamples=2000, seed=seed)
    slack = 1e-9 + 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack
    assert low - slack <= np.mean(values) <= high + slack
    assert (low, high) == bootstrap_interval(values, num_resamples=2000, seed=seed)


@given(st.lists(bits, min_size=4, max_size=30).filter(lambda v: 0 < sum(v) < len(v)))
def test_an_interval_shrinks_with_more_rows(values: list[float]) -> None:
    low, high = bootstrap_interval(values, num_resamples=2000)
    lower, higher = bootstrap_interval(values * 9, num_resamples=2000)
    assert higher - lower < 0.6 * (high - low)


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.normal(1.0, 2.0, 80), num_resamples=1000, seed=trial)
        hits += low <= 1.0 <= high
    assert 0.90 <= hits / 300 <= 0.98


@given(st.integers(0, 14), st.integers(0, 14))
def test_mcnemar_is_the_binomial_tail(fixed: int, broken: int) -> None:
    total = fixed + broken
    extreme = [
        coins for coins in range(total + 1) if abs(coins - total / 2) >= abs(fixed - total / 2)
    ]
    by_hand = sum(comb(total, coins) for coins in extreme) / 2**total
    assert exact_mcnemar(fixed, broken) == pytest.approx(by_hand)
    assert exact_mcnemar(fixed, broken) == exact_mcnemar(broken, fixed)


def test_mcnemar_numbers() -> None:
    assert exact_mcnemar(0, 0) == 1.0
    assert exact_mcnemar(10, 0) == pytest.approx(2 / 1024)
    assert 0 < exact_mcnemar(3000, 2000) < 1e-40


@given(st.lists(numbers, min_size=1, max_size=40))
def test_equal_systems_do_not_differ(values: list[float]) -> None:
    assert paired_permutation(values, values) == 1.0
    assert paired_p_value(values, values) == 1.0


@settings(max_examples=25)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_few_pairs_are_permuted_exactly(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    gaps = [a - b for a, b in pairs]
    sums = [
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
        for signs in product((1, -1), repeat=len(gaps))
    ]
    by_hand = np.mean(np.array(sums) >= abs(sum(gaps)) - 1e-6)
    assert paired_permutation(first, second) == pytest.approx(by_hand)
    assert paired_permutation(second, first) == pytest.approx(by_hand)


def test_many_pairs_are_permuted_at_random_by_seed() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(0.0, 1.0, 200)
    second = first - 0.05 + rng.normal(0, 0.5, 200)
    p_value = paired_permutation(first, second, seed=3)
    assert 0 < p_value <= 1
    assert p_value == paired_permutation(first, second, seed=3)
    assert paired_permutation(first, first - 1.0) == pytest.approx(1 / 10_001)


@given(st.lists(st.tuples(bits, bits), min_size=1, max_size=30))
def test_shares_are_tested_by_mcnemar(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    fixed = sum(a > b for a, b in pairs)
    broken = sum(a < b for a, b in pairs)
    assert paired_p_value(first, second) == exact_mcnemar(fixed, broken)
    if fixed + broken <= 12:  # where signs are flipped exhaustively, the two are the same test
        assert paired_permutation(first, second) == pytest.approx(exact_mcnemar(fixed, broken))


def test_a_p_value_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    small = sum(
        paired_permutation(rng.normal(size=30), rng.normal(size=30), num_resamples=500, seed=t)
        < 0.1
        for t in range(300)
    )
    assert 10 <= small <= 50


def test_what_cannot_be_computed_is_said() -> None:
    with pytest.raises(UsageError, match="at least one value"):
        bootstrap_interval([])
    with pytest.raises(UsageError, match=r"level is 1\.5"):
        bootstrap_interval([1.0], level=1.5)
    with pytest.raises(UsageError, match="2 and 1"):
        paired_p_value([1.0, 2.0], [1.0])
