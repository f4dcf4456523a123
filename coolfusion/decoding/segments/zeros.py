"""Probability zero: what a source excludes, and why it cannot forbid it alone.

Under a mean of logarithms a zero is an infinite veto. A source that gives probability 0 to all
tokens but one would decide every contest. Real sources do give zeros: their masked ids are
impossible, and servers that report the likeliest tokens leave out all others. So a zero is taken
for what it says, that the source has no opinion on this text that could be compared:

    abstention   A source that gives probability 0 to something that is judged has no vote on it,
                 as long as a source with a weight is left that does not.
    floor        If none is left, all vote. A zero counts as MAX_LOSS bits per byte, what a source
                 needs that knows nothing, or as the worst that this source says of another
                 candidate, if that is worse.

So ``L[c, k] = -inf`` becomes ``-b[c] * max(MAX_LOSS * ln 2, max_d -L[d, k] / b[d])`` over the
candidates ``d`` with finite values. Finite values are never changed. A text so far that the
source gives probability 0 to leaves it without an opinion of what follows: it counts as zero too.
This is our own. It is done before any reranker or end rule sees a number, so it holds for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from coolfusion.decoding.segments.end_rules import EndQuestion
from coolfusion.decoding.segments.rerankers import ScoreTable
from coolfusion.decoding.segments.scoring import SegmentScores
from coolfusion.decoding.source_weights import MAX_LOSS
from coolfusion.types import Candidate, Floats

FLOOR: Final = MAX_LOSS * math.log(2)  # nats per byte
NO_VOTE: Final = ", so that it had no vote"
FLOORED: Final = f", which counted as {MAX_LOSS:g} bits per byte"


def excluding(
    candidates: Sequence[Candidate], scores: Mapping[str, SegmentScores]
) -> dict[str, str]:
    """What each source of ``scores`` gives probability 0, in words; only those that do so."""
    reasons = {}
    for name, each in scores.items():
        for candidate, log_likelihood in zip(candidates, each.log_likelihoods, strict=True):
            if math.isnan(log_likelihood):
                reasons[name] = "it gives probability 0 to the text so far"
            elif math.isinf(log_likelihood):
                what = f"the candidate {candidate.text!r}" if candidate.text else "an end here"
                reasons[name] = f"it gives probability 0 to {what}"
            if name in reasons:
                break
    return reasons


def voting(names: Sequence[str], reasons: Mapping[str, str], weights: Floats) -> list[str]:
    """Those of ``names`` that have a vote: without a reason against it, if any has a weight.

    ``weights`` (names,) are zero or above. All have one where nobody without reason has a weight.
    """
    left = [
        (name, weight) for name, weight in zip(names, weights, strict=True) if name not in reasons
    ]
    return [name for name, _ in left] if any(weight > 0 for _, weight in left) else [*names]


def noted(reasons: Mapping[str, str], votes: Sequence[str]) -> dict[str, str]:
    """What sources gave probability 0, and what followed from it."""
    return {
        name: reason + (FLOORED if name in votes else NO_VOTE) for name, reason in reasons.items()
    }


def floored(table: ScoreTable) -> Floats:
    """The log-likelihoods (candidates, sources) of a table, with zeros at the floor."""
    scores = table.log_likelihoods
    known = np.isfinite(scores)
    if known.all():
        return scores
    num_bytes = table.num_bytes[:, None]
    rates = np.where(known, -np.where(known, scores, 0.0) / num_bytes, 0.0).max(axis=0)
    return np.where(known, scores, -num_bytes * np.maximum(rates, FLOOR))


def floored_end(question: EndQuestion) -> EndQuestion:
    """An end question in which a zero counts as one outcome of a byte."""
    if np.isfinite(question.log_end).all() and np.isfinite(question.log_first).all():
        return question
    log_end, log_first = (
        np.where(np.isfinite(values), values, -FLOOR)
        for values in (question.log_end, question.log_first)
    )
    return EndQuestion(log_end, log_first, question.weights)
