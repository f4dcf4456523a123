"""Weights without data: from how well sources predict the prompt, then from how they do.

With ``b[k]`` the bits per byte that source ``k`` needs for the prompt, and ``l[k]`` those for
a segment that was committed after a contest:

    prior   w[k] = exp(-b[k] / temperature) / sum_j exp(-b[j] / temperature)
    Hedge   w[k] <- w[k] * exp(-eta * l[k]) / sum_j w[j] * exp(-eta * l[j])

The prior is our own. Hedge is that of Freund and Schapire (1997). Losses lie in [0, MAX_LOSS]. The regret after T
contests of K sources is the weighted sum of their losses less the loss of the best source:

    regret <= ln(K) / eta + eta * T * MAX_LOSS**2 / 8

Weights are kept as logarithms, for one response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from coolfusion.checks.arguments import check_setting, checked, checked_fields
from coolfusion.decoding.notation import number_of, parse
from coolfusion.decoding.scheduler import ask, gather
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import SourceError, UsageError
from coolfusion.types import Floats, Usage

MAX_LOSS = 8.0  # bits per byte, what a source that knows nothing of bytes needs
MAX_ETA = 1e6  # beyond it one loss decides everything
FLOOR = 1e-12  # least weight that a source has in a contest


@dataclass(frozen=True, slots=True)
@checked_fields
class PromptPrior:
    """Weights from the prompt's bits per byte. A high ``temperature`` makes them equal.

    Raises ``UsageError`` for a temperature that is not positive and finite.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(
                f"The prior's temperature is {self.temperature!r}; it must be a finite number above 0."
            )

    def log_weights(self, bits_per_byte: Sequence[float]) -> tuple[float, ...]:
        """Logarithms of weights that sum to 1; NaN, a prompt nothing is known of, counts as the mean."""
        bits = np.array(bits_per_byte, dtype=np.float64)
        known = np.isfinite(bits)
        bits = np.where(known, bits, bits[known].mean() if known.any() else 0.0)
        return log_normalized(-bits / self.temperature)


@checked
def prior_named(choice: str | PromptPrior) -> PromptPrior:
    """The prior called ``prompt`` or ``prompt(TEMPERATURE)``, or the prior itself."""
    if isinstance(choice, PromptPrior):
        return choice
    term = parse(choice)
    if term.word != "prompt" or term.value is not None or len(term.terms) > 1:
        raise UsageError(f'There is no prior "{term}". Write prompt, or prompt(TEMPERATURE).')
    return PromptPrior(*(number_of(each, "The prior's temperature") for each in term.terms))


def uniform(num_sources: int) -> Floats:
    """Equal weights that sum to 1."""
    return np.full(num_sources, 1.0 / num_sources)


def normalized(weights: Floats) -> Floats:
    """``weights`` (sources,), zero or above, as weights that sum to 1; equal ones if all are zero."""
    total = weights.sum()
    return np.asarray(weights / total) if total else uniform(len(weights))


def log_normalized(log_weights: Floats) -> tuple[float, ...]:
    """Logarithms of weights, shifted so that the weights sum to 1."""
    shifted = log_weights - np.logaddexp.reduce(log_weights)
    return tuple(float(value) for value in shifted)


@checked
def hedged(log_weights: Sequence[float], losses: Sequence[float], eta: float) -> tuple[float, ...]:
    """Logarithms of the weights after one update by ``losses`` (bits per byte, one per source).

    Losses are clipped to [0, MAX_LOSS], on which the regret bound stands; one that is not a
    number counts as the greatest.
    """
    if len(log_weights) != len(losses):
        raise UsageError(
            f"log_weights has {len(log_weights)} entries and losses {len(losses)}. Give one per source."
        )
    check_setting(0 <= eta <= MAX_ETA, "eta", eta, f"from 0 to {MAX_ETA:g}")
    loss = np.nan_to_num(np.array(losses, dtype=np.float64), nan=MAX_LOSS, posinf=MAX_LOSS)
    loss = np.clip(loss, 0.0, MAX_LOSS)
    return log_normalized(np.array(log_weights, dtype=np.float64) - eta * loss)


def on_simplex(log_weights: Sequence[float]) -> Floats:
    """Weights from their logarithms: at least about ``FLOOR`` each, summing to 1."""
    raw = np.array(log_weights, dtype=np.float64)
    return normalized(np.maximum(np.exp(raw - raw.max()), FLOOR))


@dataclass(frozen=True, slots=True)
class PromptReading:
    """How well a source predicts its prompt, NaN where there is nothing to predict, and the cost."""

    bits_per_byte: float
    usage: Usage


Readings: TypeAlias = dict[int, PromptReading | SourceError]


async def read_prompt(view: SourceView) -> PromptReading:
    """Ask a source for the likelihood of its prompt after the first token.

    Only tokens that have bytes count; control tokens, as of a chat template, do not. What an
    encoder reads is given and not predicted, so a source with one has nothing to be judged by.
    A token of probability 0 counts as MAX_LOSS bits per byte, so that no single one decides.
    """
    prompt, source = view.prompt_ids, view.source
    start = 1 + sum(token >= source.backend.vocab_size for token in prompt)
    pieces = [source.tokenizer.piece(token) for token in prompt[start:]]
    if not any(pieces):
        return PromptReading(math.nan, Usage())
    (scores,) = await ask([view.request(prompt[:start], prompt[start:])])
    nats = sum(
        -log_prob if math.isfinite(log_prob) else MAX_LOSS * math.log(2) * len(piece)
        for log_prob, piece in zip(scores.log_probs, pieces, strict=True)
        if piece
    )
    num_bytes = sum(len(piece) for piece in pieces if piece)
    return PromptReading(
        nats / (num_bytes * math.log(2)),
        Usage(0, len(pieces), scores.num_forwarded, scores.num_passes),
    )


async def weigh_by_prompt(
    prior: PromptPrior, views: Sequence[SourceView], num_sources: int
) -> tuple[tuple[float, ...], Readings]:
    """Logarithms of weights (num_sources,) by how well sources predict the prompt, and the readings.

    Readings are by source number. A source that has no view or fails is weighed as an average one.
    """
    read = await gather([read_prompt(view) for view in views])
    readings = {view.index: each for view, each in zip(views, read, strict=True)}
    bits = [math.nan] * num_sources
    for index, reading in readings.items():
        if not isinstance(reading, SourceError):
            bits[index] = reading.bits_per_byte
    return prior.log_weights(bits), readings
