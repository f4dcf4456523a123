"""Log-likelihoods of given texts under each source, and combined over sources.

``L[c, k]`` (nats) is the log-likelihood of text ``c`` under source ``k``, after the source's own
prompt. It is that of the canonical encoding without an end token. Weights ``w[k]`` sum to 1:

    mean      sum_k w[k] * L[c, k]                 the log of the weighted geometric mean
    mixture   log sum_k w[k] * exp(L[c, k])        the sources' mixture over whole texts

These are the logarithmic and the linear opinion pool (Genest and Zidek 1986).
All sources score the same characters, so these are comparable whatever the tokenizers. The
mixture is a probability. ``mean`` is the log of a product of experts that is not normalised. It is
never above the mixture, and high only for a text that is likely under every source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coolfusion.backends.source import Source
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.segments.scoring import Segment, SegmentScores, score_requests
from coolfusion.decoding.source_view import SourceView
from coolfusion.decoding.source_weights import normalized
from coolfusion.errors import SourceError, UsageError
from coolfusion.types import Floats


def log_likelihoods(
    source: Source, prompts: Sequence[tuple[int, ...]], texts: Sequence[Sequence[str]]
) -> list[SegmentScores | SourceError]:
    """Score ``texts[r]`` after the prompt ids ``prompts[r]``, for each of (rows,).

    A failed row is a ``SourceError`` in the result; the others are not affected.
    """
    requests = [
        (SourceView(0, source, prompt), [Segment(text) for text in entries])
        for prompt, entries in zip(prompts, texts, strict=True)
    ]
    return score_requests(requests, AnswerCache(source.backend))


def mean(log_likelihoods: Floats, weights: Floats) -> Floats:
    """Weighted mean over the sources: from (texts, sources) to (texts,) nats."""
    combined: Floats = log_likelihoods @ weights
    return combined


def mixture(log_likelihoods: Floats, weights: Floats) -> Floats:
    """Log of the weighted sum of the sources' probabilities: (texts, sources) to (texts,) nats."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp.reduce(log_likelihoods + np.log(weights), axis=1))


COMBINATIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {"mean": mean, "mixture": mixture}


def combination_named(name: str) -> Callable[[Floats, Floats], Floats]:
    """Look up a combination. Raises ``UsageError`` for an unknown one."""
    if name not in COMBINATIONS:
        raise UsageError(
            f'There is no combination "{name}" of log-likelihoods. Choose one of '
            f"{', '.join(COMBINATIONS)}."
        )
    return COMBINATIONS[name]


def source_weights(names: Sequence[str], weights: Mapping[str, float]) -> Floats:
    """The recipe's weights (sources,), summing to 1; equal ones where it has none.

    Raises ``UsageError`` for a source that the weights leave out.
    """
    missing = [name for name in names if weights and name not in weights]
    if missing:
        raise UsageError(
            f'The weights are of {", ".join(weights)}, and none is of source "{missing[0]}". Give one '
            "to each."
        )
    return normalized(np.array([weights.get(name, 0.0) for name in names], dtype=np.float64))
