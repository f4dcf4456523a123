"""Rerankers: from log-likelihoods of candidates to one cost each; the lowest wins.

``L[c, k]`` is the log-likelihood (nats) of candidate ``c`` under source ``k``, and ``n[c, k]`` its
tokens there. ``b[c]`` are its UTF-8 bytes, and the weights ``w[k]`` sum to 1:

    mean_perplexity   sum_k w[k] * exp(-L[c, k] / n[c, k])       (arXiv 2407.19807, section 3)
    mean_nll          sum_k w[k] * -L[c, k] / n[c, k]
    bits_per_byte     sum_k w[k] * -L[c, k] / (b[c] * ln 2)
    mixture           -log sum_k w[k] * exp(L[c, k])
    lead(k)           -L[c, k] / n[c, k]

The first is the paper's, the rest is our own. Others change the table before one of these
decides, and can be nested:

    weighted(r)          w replaced by given weights times w
    without_outliers(r)  without the columns of sources that are lost
    leave_one_out(r)     for the cost of c, without the columns of those who drafted c
    calibrated(r)        L[c, k] / l[k] and n[c, k] / m[k] in place of L and n, in units of
                         the sources' means, with l[k] the nats and m[k] the tokens that
                         source k has taken for the segments committed before
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from coolfusion.checks.arguments import checked
from coolfusion.decoding.notation import Term, number_of, parse
from coolfusion.decoding.source_weights import normalized
from coolfusion.errors import UsageError
from coolfusion.types import Bools, Floats

PRIOR_TOKENS = 8.0  # of one nat each, which calibration pretends every source began with


@dataclass(frozen=True, slots=True)
class Tally:
    """What a source has said of a response's committed segments, those it scored: totals.

    ``log_likelihood`` is in nats, and what it took ``num_tokens`` tokens for.
    """

    log_likelihood: float = 0.0
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """What the sources say of the candidates.

    ``log_likelihoods`` and ``num_tokens``: (candidates, sources); ``num_bytes``:
    (candidates,); ``weights``: (sources,), positive, summing to 1; ``sources`` names columns.
    ``drafted``: (candidates, sources), who drafted what; None: nobody here did.
    ``tallies``: one per source, what it said before in this response; empty: nothing.
    """

    sources: tuple[str, ...]
    log_likelihoods: Floats
    num_tokens: Floats
    num_bytes: Floats
    weights: Floats
    drafted: Bools | None = None
    tallies: tuple[Tally, ...] = ()

    def judged_by(self, heard: Bools) -> ScoreTable:
        """The table of those sources alone that are ``heard``: (sources,), at least one of them."""
        return ScoreTable(
            tuple(name for name, keep in zip(self.sources, heard, strict=True) if keep),
            self.log_likelihoods[:, heard],
            self.num_tokens[:, heard],
            self.num_bytes,
            normalized(self.weights[heard]),
            None if self.drafted is None else self.drafted[:, heard],
            tuple(tally for tally, keep in zip(self.tallies, heard, strict=False) if keep),
        )


Reranker = Callable[[ScoreTable], Floats]


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
    log_sum: Floats = np.logaddexp.reduce(weighted, axis=1)
    return -log_sum


@checked
def lead(source: str) -> Reranker:
    """Let one trusted source judge; the others only propose.

    Where that source has been dropped, the mean negative log-likelihood of the rest decides.
    """

    def costs(table: ScoreTable) -> Floats:
        if source not in table.sources:
            return mean_nll(table)
        return _nll_per_token(table)[:, table.sources.index(source)]

    return costs


@checked
def weighted(reranker: Reranker, weights: Mapping[str, float]) -> Reranker:
    """Use ``weights`` by source name, normalised over the sources that are present.

    Weights that the table has of its own (equal, but for what a response has learnt) are
    multiplied by them. Raises ``UsageError`` for weights that are not positive and finite,
    and when a source without one is judged by.
    """
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
        raw *= table.weights / table.weights.max()
        return reranker(replace(table, weights=normalized(raw)))

    return costs


@checked
def without_outliers(reranker: Reranker, ratio: float = 10.0) -> Reranker:
    """Ignore a source that is lost, before ``reranker`` decides.

    A source is lost when its perplexity of even its favourite candidate exceeds ``ratio``
    times the median source's; at least one source always stays. Raises ``UsageError`` for a
    ratio below 1, which would drop sources that are as good as the median.
    """
    if not ratio >= 1:
        raise UsageError(f"The ratio of lost sources is {ratio!r}; it must be at least 1.")

    def costs(table: ScoreTable) -> Floats:
        best = _nll_per_token(table).min(axis=0)
        kept = best <= np.median(best) + np.log(ratio)
        return reranker(table if kept.all() else table.judged_by(kept))

    return costs


@checked
def leave_one_out(reranker: Reranker) -> Reranker:
    """Let nobody score their own draft: a candidate's cost is that of those who did not draft it.

    A candidate that all judges drafted is scored by all. What two sources score may differ in
    level as they do, so that ``calibrated`` is good to have inside.
    """

    def costs(table: ScoreTable) -> Floats:
        if table.drafted is None or not table.drafted.any():
            return reranker(table)
        left = np.zeros(len(table.num_bytes))
        for drafted in np.unique(table.drafted, axis=0):
            rows = (table.drafted == drafted).all(axis=1)
            judges = table if drafted.all() else table.judged_by(~drafted)
            left[rows] = reranker(judges)[rows]
        return left

    return costs


@checked
def calibrated(reranker: Reranker) -> Reranker:
    """Measure each source's log-likelihoods and tokens in units of its own running means.

    The means are over the segments committed before in this response, with ``PRIOR_TOKENS``
    tokens of one nat each added. They are scaled back by the ``weights``-averaged means, so that
    costs keep their units. After it, a source that is surprised by everything says no more than
    one that is surprised by nothing. Before the first contest it changes nothing.
    """

    def costs(table: ScoreTable) -> Floats:
        if not table.tallies:
            return reranker(table)
        nats = PRIOR_TOKENS - np.array([tally.log_likelihood for tally in table.tallies])
        tokens = PRIOR_TOKENS + np.array([tally.num_tokens for tally in table.tallies])
        nats = np.maximum(nats, 1.0)
        return reranker(
            replace(
                table,
                log_likelihoods=table.log_likelihoods * (nats @ table.weights / nats),
                num_tokens=table.num_tokens * (tokens @ table.weights / tokens),
            )
        )

    return costs


RERANKERS: Mapping[str, Reranker] = {
    "mean_perplexity": mean_perplexity,
    "mean_nll": mean_nll,
    "bits_per_byte": bits_per_byte,
    "mixture": mixture,
}


COMPOSED: Mapping[str, Callable[[Reranker], Reranker]] = {
    "leave_one_out": leave_one_out,
    "calibrated": calibrated,
}
NOTATION = (
    f"{', '.join(RERANKERS)}, lead(NAME), weighted(RERANKER, NAME=1, NAME=2), "
    f"without_outliers(RERANKER, 10), {', '.join(f'{name}(RERANKER)' for name in COMPOSED)}"
)


@checked
def reranker_named(text: str) -> Reranker:
    """The reranker that a text names. Raises ``UsageError`` with what can be named."""
    return _reranker(parse(text))


@checked
def weights_named(text: str) -> tuple[str | None, dict[str, float]]:
    """The lead source or the weights that the outermost part of a reranker's name gives."""
    term = parse(text)
    if term.word == "lead" and len(term.terms) == 1:
        return term.terms[0].word, {}
    return None, _weights(term.terms[1:]) if term.word == "weighted" else {}


def _reranker(term: Term) -> Reranker:
    if term.value is None and term.word in RERANKERS:
        if term.terms:
            raise UsageError(f'{term.word} takes nothing in brackets, got "{term}".')
        return RERANKERS[term.word]
    if term.word == "lead":
        if len(term.terms) != 1 or not term.terms[0].is_plain:
            raise UsageError(f'"{term}" names no source to lead. Write lead(NAME).')
        return lead(term.terms[0].word)
    if term.value is not None or term.word not in (*COMPOSED, "weighted", "without_outliers"):
        raise UsageError(f'There is no reranker "{term}". Choose one of {NOTATION}.')
    if not term.terms:
        raise UsageError(f"{term.word} changes another reranker. Write {term.word}(mean_nll).")
    inner, more = _reranker(term.terms[0]), term.terms[1:]
    if term.word == "weighted":
        if not more:
            raise UsageError(
                f'"{term}" gives no weights. Write weighted(mean_nll, NAME=1, NAME=2).'
            )
        return weighted(inner, _weights(more))
    if term.word == "without_outliers" and len(more) <= 1:
        return without_outliers(inner, *(number_of(ratio, "The ratio") for ratio in more))
    if more:
        raise UsageError(
            f'"{term}" has "{more[0]}" left over. {term.word} does not take that many.'
        )
    return COMPOSED[term.word](inner)


def _weights(terms: tuple[Term, ...]) -> dict[str, float]:
    for term in terms:
        if term.value is None:
            raise UsageError(f'The weight "{term}" has no number. Write NAME=1.')
    return {
        term.word: number_of(Term(term.value or ""), f"The weight of {term.word}") for term in terms
    }
