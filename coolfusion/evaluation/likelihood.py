"""How likely sources, alone and together, find a given text.

With log-likelihood ``L[c, k]`` (nats) of text ``c`` under source ``k`` after its own prompt,
that of the text's canonical encoding without an end token, and weights ``w[k]`` that sum to 1:

    mean      sum_k w[k] * L[c, k]                 the log of the weighted geometric mean
    mixture   log sum_k w[k] * exp(L[c, k])        the sources' mixture over whole texts

All sources score the same characters, so these are comparable whatever the tokenizers. The
mixture is a probability; ``mean``, a product of experts that is not normalised, is never
above it, and a text is likely under it only if every source finds it likely.
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
    """Score ``texts[r]`` after prompt ids ``prompts[r]``, (rows,); a row that fails, fails alone."""
    requests = [
        (SourceView(0, source, prompt), [Segment(text) for text in entries])
        for prompt, entries in zip(prompts, texts, strict=True)
    ]
    return score_requests(requests, AnswerCache(source.backend))


def mean(log_likelihoods: Floats, weights: Floats) -> Floats:
    """Weighted mean over the sources of (texts, sources): (texts,) nats."""
    combined: Floats = log_likelihoods @ weights
    return combined


def mixture(log_likelihoods: Floats, weights: Floats) -> Floats:
    """Log of the weighted sum of the sources' probabilities of (texts, sources): (texts,) nats."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp.reduce(log_likelihoods + np.log(weights), axis=1))


COMBINATIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {"mean": mean, "mixture": mixture}


def combination_named(name: str) -> Callable[[Floats, Floats], Floats]:
    """Look a combination up. Raises ``UsageError`` for one that does not exist."""
    if name not in COMBINATIONS:
        raise UsageError(
            f'There is no combination "{name}" of log-likelihoods. Choose one of '
            f"{', '.join(COMBINATIONS)}."
        )
    return COMBINATIONS[name]


def source_weights(names: Sequence[str], weights: Mapping[str, float]) -> Floats:
    """The recipe's weights (sources,), summing to 1; equal ones where it has none."""
    return normalized(np.array([weights.get(name, 0.0) for name in names], dtype=np.float64))
