"""Mixing rules against their formulas in plain probabilities, and picks against distributions."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion import Sampling, SourceError, UsageError
from coolfusion.backends.sampling import (
    draw,
    filtered,
    noise,
    pick,
)
from coolfusion.decoding.mixture.rules import (
    RULES,
    Arithmetic,
    Geometric,
    TopKUnion,
    mixed,
    mixing_named,
)

NAMES = ("arithmetic", "geometric", "top_k_union(2)", "top_k_union")


@st.composite
def tables(draw: st.DrawFn, *, zeros: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Distributions (sources, outcomes) with some impossible outcomes, and weights (sources,).

    The first outcome is possible for all, so that no rule runs out of outcomes.
    """
    sources, outcomes = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    probs = dice.dirichlet([draw(st.sampled_from([0.05, 1.0, 50.0]))] * outcomes, size=sources)
    probs = np.maximum(probs, 1e-290)
    if zeros:
        probs[:, 1:] *= dice.random((sources, outcomes - 1)) < 0.7
    probs /= probs.sum(axis=1, keepdims=True)
    weights = dice.dirichlet([1.0] * sources)
    if zeros and sources > 1 and draw(st.booleans()):
        weights[draw(st.integers(0, sources - 1))] = 0.0
    with np.errstate(divide="ignore"):
        return np.log(probs), weights / weights.sum()


def by_hand(name: str, log_probs: np.ndarray, weights: np.ndarray) -> list[float]:
    """The formulas of ``coolfusion.decoding.mixture.rules``, one outcome after another."""
    probs = [[math.exp(x) for x in row] for row in log_probs]
    heard = [(w, row) for w, row in zip(weights, probs, strict=True) if w > 0]
    outcomes = range(len(probs[0]))
    if name == "arithmetic":
        pooled = [sum(w * row[o] for w, row in heard) for o in outcomes]
    elif name == "geometric":
        logs = [
            sum(w * (math.log(row[o]) if row[o] else -math.inf) for w, row in heard)
            for o in outcomes
        ]
        pooled = [math.exp(x - max(logs)) for x in logs]
    else:
        size = 2 if "2" in name else 10
        union = {
            o
            for _, row in heard
            for o in outcomes
            if row[o] > 0 and sum(other > row[o] for other in row) < size
        }
        pooled = [
            sum(w * row[o] / sum(row[u] for u in union) for w, row in heard) if o in union else 0.0
            for o in outcomes
        ]
    return [value / sum(pooled) for value in pooled]


@given(tables(), st.sampled_from(NAMES))
def test_rules_are_their_formulas(table: tuple[np.ndarray, np.ndarray], name: str) -> None:
    log_probs, weights = table
    combined = mixed(mixing_named(name), log_probs, weights)
    assert np.exp(combined) == pytest.approx(by_hand(name, log_probs, weights), abs=1e-12)
    assert np.exp(combined).sum() == pytest.approx(1.0)
    assert not np.isnan(combined).any()


@given(tables(zeros=False), st.sampled_from(NAMES), st.randoms())
def test_the_order_of_sources_does_not_matter(
    table: tuple[np.ndarray, np.ndarray], name: str, noise: random.Random
) -> None:
    log_probs, weights = table
    order = noise.sample(range(len(weights)), len(weights))
    rule = mixing_named(name)
    assert mixed(rule, log_probs[order], weights[order]) == pytest.approx(
        mixed(rule, log_probs, weights), abs=1e-9
    )


@given(tables(), st.sampled_from(["arithmetic", "geometric"]))
def test_a_source_with_itself_is_itself(table: tuple[np.ndarray, np.ndarray], name: str) -> None:
    log_probs, weights = table
    same = np.repeat(log_probs[:1], len(weights), axis=0)
    assert mixed(mixing_named(name), same, weights) == pytest.approx(log_probs[0], abs=1e-9)


@given(tables(), st.sampled_from(NAMES))
def test_a_source_without_weight_has_no_say(
    table: tuple[np.ndarray, np.ndarray], name: str
) -> None:
    log_probs, _ = table
    rule = mixing_named(name)
    first = np.eye(len(log_probs))[0]
    alone = mixed(rule, log_probs[:1], np.ones(1))
    assert np.array_equal(mixed(rule, log_probs, first), alone)


def test_geometric_excludes_what_one_source_excludes() -> None:
    rows = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.5, 1e-300]]))
    rows[1, 2] = -np.inf
    combined = np.exp(mixed(Geometric(), rows, np.array([0.9, 0.1])))
    assert combined[2] == 0.0
    assert combined[0] / combined[1] == pytest.approx(2**0.9)


def test_nothing_left_is_an_error_and_not_nan() -> None:
    with np.errstate(divide="ignore"):
        apart = np.log(np.eye(2))
    half = np.full(2, 0.5)
    with pytest.raises(SourceError, match="geometric mixture of 2 sources has no outcome left"):
        mixed(Geometric(), apart, half)
    assert np.exp(mixed(Arithmetic(), apart, half)) == pytest.approx([0.5, 0.5])
    for name in RULES:
        with pytest.raises(SourceError, match="no outcome left"):
            mixed(mixing_named(name), np.full((2, 3), -np.inf), half)


def test_tiny_probabilities_survive() -> None:
    rows = np.array([[-2000.0, 0.0], [-3000.0, 0.0]])
    assert mixed(Arithmetic(), rows, np.full(2, 0.5))[0] == pytest.approx(-2000 - math.log(2))
    assert mixed(Geometric(), rows, np.full(2, 0.5))[0] == pytest.approx(-2500)


def test_names() -> None:
    assert mixing_named("arithmetic") == Arithmetic()
    assert mixing_named("top_k_union(20)") == TopKUnion(20)
    assert mixing_named(TopKUnion(3)) == TopKUnion(3)
    for name in NAMES:
        assert mixing_named(name).name == name
        assert mixing_named(mixing_named(name).name) == mixing_named(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("harmonic", 'no mixing rule "harmonic". Choose arithmetic, geometric, top_k_union'),
        ("arithmetic(2)", "more in brackets than arithmetic takes"),
        ("top_k_union(2, 3)", "more in brackets"),
        ("top_k_union(many)", 'is "many"; it must be a number'),
        ("top_k_union(1.5)", "no whole number"),
        ("top_k_union(0)", "nothing to choose from"),
        ("arithmetic=1", "no mixing rule"),
        ("top_k_union(", "ends where"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        mixing_named(name)


samplings = st.builds(
    Sampling,
    st.sampled_from([0.3, 0.8, 1.0, 2.5]),
    st.sampled_from([0, 1, 2, 5]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 1000),
)


def kept_by_hand(log_probs: np.ndarray, sampling: Sampling) -> dict[int, float]:
    """What a filter leaves: outcomes and their probabilities, from sorted pairs."""
    powers = {o: math.exp(x / sampling.temperature) for o, x in enumerate(log_probs)}
    ranked = sorted(powers, key=lambda o: -powers[o])[: sampling.top_k or None]
    total, before, kept = sum(powers[o] for o in ranked), 0.0, []
    for outcome in ranked:
        if kept and sampling.top_p < 1.0 and before >= sampling.top_p:
            break
        kept.append(outcome)
        before += powers[outcome] / total
    total = sum(powers[o] for o in kept)
    return {o: powers[o] / total for o in kept if powers[o]}


@given(tables(zeros=False), samplings)
def test_filters_keep_what_they_say(
    table: tuple[np.ndarray, np.ndarray], sampling: Sampling
) -> None:
    row = np.maximum(table[0][0], -30.0)
    row = row - math.log(np.exp(row).sum())
    left = filtered(row, sampling)
    wanted = kept_by_hand(row, sampling)
    found = {o: float(p) for o, p in enumerate(np.exp(left)) if p > 0}
    assert found == pytest.approx(wanted)


@given(tables(), samplings, st.integers(0, 50))
def test_a_pick_is_possible_and_repeatable(
    table: tuple[np.ndarray, np.ndarray], sampling: Sampling, position: int
) -> None:
    row = table[0][0]
    chosen = pick(row, sampling, position)
    assert filtered(row, sampling)[chosen] > -np.inf
    assert pick(row, sampling, position) == chosen
    again = Sampling(1.0, seed=sampling.seed)
    assert pick(filtered(row, sampling), again, position) == chosen


def test_greedy_picks_the_first_of_the_likeliest() -> None:
    row = np.log([0.2, 0.4, 0.4])
    assert pick(row, Sampling(), 3) == 1
    assert np.exp(filtered(row, Sampling())).tolist() == [0.0, 1.0, 0.0]


def test_draws_follow_weights_and_are_not_the_noise_of_picks() -> None:
    weights = np.array([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    drawn = Counter(draw(weights, 5, position) for position in range(6000))
    assert set(drawn) == {1, 2, 4}
    assert [drawn[k] / 6000 for k in (1, 2, 4)] == pytest.approx([0.5, 0.2, 0.3], abs=0.025)
    assert draw(np.array([0.0, 0.0, 3.0]), 1, 1) == 2
    assert draw(weights, 5, 7) == draw(weights, 5, 7)
    half = np.array([0.5, 0.5])
    pairs = itertools.product(range(2), range(1000))
    agree = Counter(
        draw(half, seed, position) == pick(np.log(half), Sampling(1.0, seed=seed), position)
        for seed, position in pairs
    )
    assert 0.45 < agree[True] / 2000 < 0.55
    assert noise(Sampling(1.0, seed=2), 3, 4).shape == (4,)
