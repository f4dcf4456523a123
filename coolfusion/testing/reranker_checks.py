"""The laws of rerankers: pure, symmetric, and never worse for a likelier candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coolfusion.decoding.segments.rerankers import Reranker, ScoreTable, Tally
from coolfusion.decoding.source_weights import uniform
from coolfusion.testing.conformance import require, require_close
from coolfusion.types import Floats

TOLERANCE = 1e-9
NUM_TABLES = 25


def check_reranker(
    reranker: Reranker,
    sources: Sequence[str] = ("one", "two", "three"),
    *,
    monotone: bool = True,
) -> None:
    """Raise ``ConformanceError`` if ``reranker`` breaks a law on random score tables.

    ``sources`` are the names in the tables. ``monotone=False`` leaves one law out: raising a
    candidate's likelihood never worsens its rank. A rule that selects sources by their scores
    cannot keep it.
    """
    noise = np.random.default_rng(0)
    for _ in range(NUM_TABLES):
        table = _random_table(tuple(sources), noise)
        _purity(reranker, table, noise)
        _shape(reranker, table, noise)
        _candidate_order(reranker, table, noise)
        _source_order(reranker, table, noise)
        _duplicated_sources(reranker, table, noise)
        if monotone:
            _monotony(reranker, table, noise)


def _random_table(sources: tuple[str, ...], noise: np.random.Generator) -> ScoreTable:
    shape = (int(noise.integers(2, 6)), len(sources))
    num_tokens = noise.integers(1, 6, size=shape).astype(np.float64)
    return ScoreTable(
        sources,
        -num_tokens * noise.uniform(0.01, 4.0, size=shape),
        num_tokens,
        noise.integers(1, 30, size=shape[0]).astype(np.float64),
        uniform(len(sources)),
        noise.random(shape) < 1 / len(sources),
        tuple(_random_tally(noise) for _ in sources),
    )


def _random_tally(noise: np.random.Generator) -> Tally:
    num_tokens = int(noise.integers(1, 90))
    return Tally(-num_tokens * float(noise.uniform(0.3, 3.0)), num_tokens)


def _costs(reranker: Reranker, table: ScoreTable) -> Floats:
    return np.asarray(reranker(table), dtype=np.float64)


def _require_equal(law: str, want: Floats, got: Floats, tolerance: float, where: object) -> None:
    # Relative to the greatest cost: perplexities may be of any size.
    size = max(1.0, float(np.abs(want).max(initial=0.0)))
    require_close(law, (want / size).tolist(), (got / size).tolist(), tolerance, where)


def _shape(reranker: Reranker, table: ScoreTable, _: np.random.Generator) -> None:
    costs = _costs(reranker, table)
    shape = table.log_likelihoods.shape[:1]
    require(costs.shape == shape, "one cost per candidate", shape, costs.shape, table)
    require(bool(np.isfinite(costs).all()), "costs are finite", "finite", costs, table)


def _purity(reranker: Reranker, table: ScoreTable, _: np.random.Generator) -> None:
    before = table.log_likelihoods.copy()
    first = _costs(reranker, table)
    same = bool((before == table.log_likelihoods).all())
    require(same, "a reranker does not alter its table", before, table.log_likelihoods, table)
    second = _costs(reranker, table)
    equal = bool(np.array_equal(first, second, equal_nan=True))
    require(equal, "equal tables give equal costs", first, second, table)


def _candidate_order(reranker: Reranker, table: ScoreTable, noise: np.random.Generator) -> None:
    order = noise.permutation(len(table.num_bytes))
    permuted = replace(
        table,
        log_likelihoods=table.log_likelihoods[order],
        num_tokens=table.num_tokens[order],
        num_bytes=table.num_bytes[order],
        drafted=None if table.drafted is None else table.drafted[order],
    )
    want, got = _costs(reranker, table)[order], _costs(reranker, permuted)
    _require_equal("permuting candidates permutes costs", want, got, TOLERANCE, table)


def _source_order(reranker: Reranker, table: ScoreTable, noise: np.random.Generator) -> None:
    order = noise.permutation(len(table.sources))
    permuted = _with_columns(table, [int(k) for k in order])
    want, got = _costs(reranker, table), _costs(reranker, permuted)
    _require_equal("permuting sources changes nothing", want, got, TOLERANCE, table)


def _duplicated_sources(reranker: Reranker, table: ScoreTable, _: np.random.Generator) -> None:
    doubled = _with_columns(table, [k for k in range(len(table.sources)) for _ in range(2)])
    want, got = _costs(reranker, table), _costs(reranker, doubled)
    _require_equal("duplicating every source changes nothing", want, got, TOLERANCE, table)


def _with_columns(table: ScoreTable, columns: list[int]) -> ScoreTable:
    return replace(
        table,
        sources=tuple(table.sources[k] for k in columns),
        log_likelihoods=table.log_likelihoods[:, columns],
        num_tokens=table.num_tokens[:, columns],
        weights=uniform(len(columns)),
        drafted=None if table.drafted is None else table.drafted[:, columns],
        tallies=tuple(table.tallies[k] for k in columns) if table.tallies else (),
    )


def _monotony(reranker: Reranker, table: ScoreTable, noise: np.random.Generator) -> None:
    chosen = int(noise.integers(len(table.num_bytes)))
    raised = table.log_likelihoods.copy()
    raised[chosen] *= noise.uniform(0.1, 0.9, size=len(table.sources))
    before = _rank(_costs(reranker, table), chosen)
    after = _rank(_costs(reranker, replace(table, log_likelihoods=raised)), chosen)
    law = "raising a candidate's likelihood never worsens its rank"
    require(after <= before, law, f"rank at most {before}", after, table)


def _rank(costs: Floats, chosen: int) -> int:
    return int((costs < costs[chosen] - TOLERANCE).sum())
