"""Which outcomes the filters leave, by hand, and what their shares are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coolfusion.backends.sampling import GREEDY, Sampling, draw, filtered, pick

PROBS = (0.05, 0.15, 0.3, 0.5)
# Temperature, top k and top p, with the outcomes of PROBS that are left. Temperature 1/2 gives
# 0.007, 0.062, 0.247 and 0.685, temperature 2 gives 0.120, 0.208, 0.294 and 0.379. Of the two
# likeliest alone, the likelier has 0.625.
KEPT: list[tuple[float, int, float, set[int]]] = [
    (1.0, 1, 1.0, {3}),
    (1.0, 2, 1.0, {2, 3}),
    (1.0, 3, 1.0, {1, 2, 3}),
    (1.0, 9, 1.0, {0, 1, 2, 3}),
    (1.0, 0, 0.45, {3}),
    (1.0, 0, 0.75, {2, 3}),
    (1.0, 0, 0.9, {1, 2, 3}),
    (1.0, 0, 0.97, {0, 1, 2, 3}),
    (1.0, 2, 0.6, {3}),
    (1.0, 2, 0.65, {2, 3}),
    (1.0, 1, 0.9, {3}),
    (0.5, 0, 0.68, {3}),
    (2.0, 0, 0.68, {1, 2, 3}),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "kept"), KEPT)
def test_filters_keep_what_they_should(
    temperature: float, top_k: int, top_p: float, kept: set[int]
) -> None:
    log_probs = np.log(PROBS)
    samplings = [Sampling(temperature, top_k, top_p, seed) for seed in range(400)]
    assert {pick(log_probs, sampling, 7) for sampling in samplings} == kept
    tempered = np.array(PROBS) ** (1 / temperature)
    tempered[[i for i in range(4) if i not in kept]] = 0.0
    np.testing.assert_allclose(
        np.exp(filtered(log_probs, samplings[0])), tempered / tempered.sum(), atol=1e-12
    )


def test_the_earlier_of_equals_is_kept() -> None:
    log_probs = np.log([0.25] * 4)
    assert {pick(log_probs, Sampling(1.0, 2, seed=seed), 0) for seed in range(100)} == {0, 1}
    assert pick(log_probs, GREEDY, 0) == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature: float) -> None:
    wanted = np.array(PROBS) ** (1 / temperature)
    log_probs, sampling = np.log(PROBS), Sampling(temperature, seed=3)
    drawn = [pick(log_probs, sampling, position) for position in range(4000)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares == pytest.approx(wanted / wanted.sum(), abs=0.03)


@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=9),
    st.floats(0.2, 3.0),
    st.integers(0, 9),
    st.floats(0.05, 1.0),
)
def test_filters_are_their_definition(
    masses: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    probs = np.array(masses) / sum(masses)
    tempered = probs ** (1 / temperature)
    tempered /= tempered.sum()
    ranked = sorted(range(len(probs)), key=lambda i: (-tempered[i], i))
    assume(all(tempered[a] - tempered[b] > 1e-6 for a, b in pairwise(ranked)))
    ranked = ranked[: top_k or len(ranked)]
    before, kept = 0.0, []
    for outcome in ranked:
        share = tempered[outcome] / tempered[ranked].sum()
        assume(abs(before - top_p) > 1e-6)
        if before < top_p or top_p == 1.0:
            kept.append(outcome)
        before += share
    found = filtered(np.log(probs), Sampling(temperature, top_k, top_p))
    assert set(np.flatnonzero(np.isfinite(found))) == set(kept)
    np.testing.assert_allclose(np.exp(found[kept]), tempered[kept] / tempered[kept].sum())


def test_draws_go_by_weight_and_never_to_weight_0() -> None:
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    drawn = np.array([draw(weights, 5, position) for position in range(4000)])
    assert set(drawn) == {1, 3}
    assert (drawn == 3).mean() == pytest.approx(0.75, abs=0.03)
