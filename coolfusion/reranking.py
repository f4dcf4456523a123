"""Rerankers: from log-likelihoods of candidates to one cost each; the lowest wins.

With log-likelihood ``L[c, k]`` (nats) of candidate ``c`` under source ``k``, which took
``n[c, k]`` tokens for it, ``b[c]`` UTF-8 bytes and weights ``w[k]`` that sum to 1:

    mean_perplexity   sum_k w[k] * exp(-L[c, k] / n[c, k])       (arXiv 2407.19807, section 3)
    mean_nll          sum_k w[k] * -L[c, k] / n[c, k]
    bits_per_byte     sum_k w[k] * -L[c, k] / (b[c] * ln 2)
    mixture           -log sum_k w[k] * exp(L[c, k])
    lead(k)           -L[c, k] / n[c, k]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coolfusion.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """What the sources say of the candidates.

    ``log_likelihoods`` and ``num_tokens``: (candidates, sources); ``num_bytes``:
    (candidates,); ``weights``: (sources,), positive, summing to 1; ``sources`` names columns.
    """

    sources: tuple[str, ...]
    log_likelihoods: Floats
    num_tokens: Floats
    num_bytes: Floats
    weights: Floats


Reranker = Callable[[ScoreTable], Floats]


def uniform(num_sources: int) -> Floats:
    """Equal weights that sum to 1."""
    return np.full(num_sources, 1.0 / num_sources)


def _nll_per_token(table: ScoreTable) -> Floats:
    return -table.log_likelihoods / table.num_tokens


def _averaged(values: Floats, table: ScoreTable) -> Floats:
    averages: Floats = values @ table.weights
    return averages


def mean_perplexity(table: ScoreTable) -> Floats:
    """Weighted arithmetic mean of the sources' perplexities (the paper's score)."""
    with np.errstate(over="ignore"):
        perplexities: Floats = np.exp(_nll_per_token(table))
    return _averaged(perplexities, table)


def mean_nll(table: ScoreTable) -> Floats:
    """Weighted mean of negative log-likelihoods per token: the log of a geometric mean perplexity."""
    return _averaged(_nll_per_token(table), table)


def bits_per_byte(table: ScoreTable) -> Floats:
    """Weighted mean of bits per UTF-8 byte, which no tokenizer can shorten or stretch."""
    bits: Floats = -_averaged(table.log_likelihoods, table) / (table.num_bytes * np.log(2))
    return bits


def mixture(table: ScoreTable) -> Floats:
    """Negative log of the weighted sum of probabilities: a mixture of distributions over segments."""
    weighted = table.log_likelihoods + np.log(table.weights)
    peak = weighted.max(axis=1, keepdims=True)
    log_sum: Floats = peak[:, 0] + np.log(np.exp(weighted - peak).sum(axis=1))
    return -log_sum


def lead(source: str) -> Reranker:
    """Let one trusted source judge; the others only propose.

    Where that source has been dropped, the mean negative log-likelihood of the rest decides.
    """

    def costs(table: ScoreTable) -> Floats:
        if source not in table.sources:
            return mean_nll(table)
        return _nll_per_token(table)[:, table.sources.index(source)]

    return costs


def weighted(reranker: Reranker, weights: Mapping[str, float]) -> Reranker:
    """Use ``weights`` by source name, normalised over the sources that are present."""
    if any(not np.isfinite(w) or w <= 0 for w in weights.values()):
        raise UsageError(
            f"Weights must be positive and finite, got {dict(weights)}. Leave a source out instead."
        )

    def costs(table: ScoreTable) -> Floats:
        missing = [name for name in table.sources if name not in weights]
        if missing:
            raise UsageError(
                f"There is no weight for source {missing[0]!r}. Weights given: {dict(weights)}."
            )
        raw = np.array([weights[name] for name in table.sources], dtype=np.float64)
        return reranker(replace(table, weights=raw / raw.sum()))

    return costs


def without_outliers(reranker: Reranker, ratio: float = 10.0) -> Reranker:
    """Ignore a source that is lost, before ``reranker`` decides.

    A source is lost when its perplexity of even its favourite candidate exceeds ``ratio``
    times the median source's; at least one source always stays.
    """

    def costs(table: ScoreTable) -> Floats:
        best = _nll_per_token(table).min(axis=0)
        kept = best <= np.median(best) + np.log(ratio)
        if kept.all():
            return reranker(table)
        weights = table.weights[kept]
        return reranker(
            ScoreTable(
                tuple(name for name, keep in zip(table.sources, kept, strict=True) if keep),
                table.log_likelihoods[:, kept],
                table.num_tokens[:, kept],
                table.num_bytes,
                weights / weights.sum(),
            )
        )

    return costs


RERANKERS: Mapping[str, Reranker] = {
    "mean_perplexity": mean_perplexity,
    "mean_nll": mean_nll,
    "bits_per_byte": bits_per_byte,
    "mixture": mixture,
}
