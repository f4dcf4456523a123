"""The end question under each rule, by hand and as laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coolfusion.decoding.segments.end_rules import (
    END_RULES,
    EndQuestion,
    joint_odds,
    majority_mass,
    token_contest,
)


def question(
    p_end: list[float], p_first: list[list[float]], weights: list[float] | None = None
) -> EndQuestion:
    """``p_end`` (sources,) and ``p_first`` (candidates, sources) with equal or given weights."""
    given_ones = weights or [1 / len(p_end)] * len(p_end)
    return EndQuestion(np.log(p_end), np.log(p_first), np.array(given_ones))


def odds(p_end: list[float], weights: list[float] | None = None) -> bool:
    return joint_odds(question(p_end, [[0.1] * len(p_end)], weights))


def test_joint_odds_by_hand() -> None:
    assert odds([0.9, 0.2])  # 0.9 * 0.2 > 0.1 * 0.8
    assert not odds([0.9, 0.001])  # one certain veto: 0.9 * 0.001 < 0.1 * 0.999
    assert not odds([0.6, 0.3])  # 0.6 * 0.3 < 0.4 * 0.7, though more than the square of it
    assert odds([0.7, 0.4])  # 0.7 * 0.4 > 0.3 * 0.6, though less than the root of it
    # Odds of 4 to 1 outweigh 1 to 9 where their source has more than ln 9 / ln 4 = 1.6 times the weight.
    assert odds([0.8, 0.1], [0.7, 0.3])
    assert not odds([0.8, 0.1], [0.55, 0.45])


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4), st.integers(0, 99))
def test_joint_odds_are_the_weighted_sum_of_log_odds(p_end: list[float], seed: int) -> None:
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(p_end)))
    total = float(weights @ [math.log(p / (1 - p)) for p in p_end])
    assume(abs(total) > 1e-9)
    assert odds(p_end, list(weights)) is (total > 0)
    # Sources that say the opposite decide the opposite.
    assert odds([1 - p for p in p_end], list(weights)) is (total < 0)


def test_nobody_is_infinitely_sure() -> None:
    with np.errstate(all="raise"):
        assert odds([1.0, 0.01])
        assert not odds([1.0, 1e-20])


def test_majority_mass_by_hand() -> None:
    first = [[0.1, 0.8]]
    assert majority_mass(question([0.9, 0.2], first))  # a mean of 0.55
    assert not majority_mass(question([0.9, 0.2], first, [0.25, 0.75]))  # 0.375
    assert majority_mass(question([0.9, 0.2], first, [0.75, 0.25]))  # 0.725
    assert not majority_mass(question([0.5, 0.5], first))  # half of it is no majority


def test_token_contest_by_hand() -> None:
    # The end is unlikely, but the only draft's first token is unlikelier still.
    assert token_contest(question([0.3, 0.3], [[0.2, 0.1]]))
    assert not odds([0.3, 0.3])
    # It must be likelier than the first token of every draft.
    assert not token_contest(question([0.3, 0.3], [[0.2, 0.1], [0.4, 0.4]]))
    # Geometric means by weight: 0.3 * 0.3 against 0.9 * 0.05, then 0.9 counts double.
    assert token_contest(question([0.3, 0.3], [[0.9, 0.05]]))
    assert not token_contest(question([0.3, 0.3], [[0.9, 0.05]], [2 / 3, 1 / 3]))


@pytest.mark.parametrize("name", sorted(set(END_RULES) - {"compete"}))
def test_the_order_of_sources_does_not_matter(name: str) -> None:
    p_end, weights = [0.9, 0.2, 0.4], [0.5, 0.3, 0.2]
    asked = question(p_end, [[0.05, 0.7, 0.5]], weights)
    for order in ([1, 0, 2], [2, 1, 0], [1, 2, 0]):
        turned = EndQuestion(asked.log_end[order], asked.log_first[:, order], asked.weights[order])
        assert END_RULES[name](turned) is END_RULES[name](asked)
