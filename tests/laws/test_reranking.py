"""What rerankers promise for every score table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.errors import UsageError
from coolfusion.reranking import (
    RERANKERS,
    ScoreTable,
    bits_per_byte,
    lead,
    mean_nll,
    mean_perplexity,
    mixture,
    weighted,
    without_outliers,
)
from tests.strategies import score_tables


@pytest.mark.parametrize("name", RERANKERS)
@given(table=score_tables(), seed=st.integers(0, 999))
def test_symmetry(name: str, table: ScoreTable, seed: int) -> None:
    noise = np.random.default_rng(seed)
    rows = noise.permutation(len(table.num_bytes))
    columns = noise.permutation(len(table.sources))
    permuted = replace(
        table,
        log_likelihoods=table.log_likelihoods[rows][:, columns],
        num_tokens=table.num_tokens[rows][:, columns],
        num_bytes=table.num_bytes[rows],
    )
    expected = RERANKERS[name](table)[rows]
    np.testing.assert_allclose(RERANKERS[name](permuted), expected, rtol=1e-9)


@pytest.mark.parametrize("name", RERANKERS)
@given(table=score_tables(), factor=st.floats(0.0, 1.0), row=st.integers(0, 1))
def test_a_likelier_candidate_never_costs_more(
    name: str, table: ScoreTable, factor: float, row: int
) -> None:
    raised = table.log_likelihoods.copy()
    raised[row] *= factor
    before = RERANKERS[name](table)
    after = RERANKERS[name](replace(table, log_likelihoods=raised))
    assert after[row] <= before[row] + 1e-9
    others = [c for c in range(len(before)) if c != row]
    np.testing.assert_array_equal(before[others], after[others])


@given(score_tables())
def test_one_source_alone_judges_by_its_own_scores(table: ScoreTable) -> None:
    alone = replace(
        table,
        sources=table.sources[:1],
        log_likelihoods=table.log_likelihoods[:, :1],
        num_tokens=table.num_tokens[:, :1],
        weights=np.ones(1),
    )
    nll = -alone.log_likelihoods[:, 0] / alone.num_tokens[:, 0]
    np.testing.assert_allclose(mean_nll(alone), nll)
    np.testing.assert_allclose(lead("a")(table), nll)
    np.testing.assert_allclose(mean_perplexity(alone), np.exp(nll))
    np.testing.assert_allclose(mixture(alone), -alone.log_likelihoods[:, 0])
    bits = -alone.log_likelihoods[:, 0] / alone.num_bytes / np.log(2)
    np.testing.assert_allclose(bits_per_byte(alone), bits)


@given(score_tables())
def test_arithmetic_means_are_at_least_geometric_ones(table: ScoreTable) -> None:
    assert (np.log(mean_perplexity(table)) >= mean_nll(table) - 1e-9).all()


@pytest.mark.parametrize("name", RERANKERS)
@given(table=score_tables(), scale=st.floats(0.1, 50.0))
def test_weights_are_relative(name: str, table: ScoreTable, scale: float) -> None:
    equal = weighted(RERANKERS[name], dict.fromkeys(table.sources, scale))
    np.testing.assert_allclose(equal(table), RERANKERS[name](table), rtol=1e-9)


@given(score_tables(), st.floats(20.0, 1000.0))
def test_a_lost_source_is_not_heard(table: ScoreTable, nll: float) -> None:
    own, tokens = table.log_likelihoods[:, :1], table.num_tokens[:, :1]
    best = float((-own / tokens).min())
    agreeing = replace(
        table,
        sources=("a", "b"),
        log_likelihoods=np.hstack([own, own]),
        num_tokens=np.hstack([tokens, tokens]),
        weights=np.full(2, 1 / 2),
    )
    joined = replace(
        agreeing,
        sources=("a", "b", "lost"),
        log_likelihoods=np.hstack([own, own, -(best + nll) * tokens]),
        num_tokens=np.hstack([tokens, tokens, tokens]),
        weights=np.full(3, 1 / 3),
    )
    filtered = without_outliers(mean_nll)
    np.testing.assert_allclose(filtered(joined), mean_nll(agreeing))


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": -1.0}, {"a": float("nan")}])
def test_useless_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="positive"):
        weighted(mean_nll, weights)
