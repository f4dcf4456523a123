"""What a mixture asks its sources: what comes next, and how well they predict the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from coolfusion.asking import AskDistributions, Talk, together
from coolfusion.backends.base import Distributions, Query
from coolfusion.backends.source import Source
from coolfusion.errors import ContextLengthError, SourceError
from coolfusion.mixture.state import MixtureState
from coolfusion.types import Usage
from coolfusion.weights import PromptPrior, PromptReading, read_prompt

Weighed: TypeAlias = tuple[tuple[float, ...], dict[int, PromptReading | SourceError]]


def ask_next(
    state: MixtureState, sources: Sequence[Source], prefixes: dict[int, tuple[int, ...]]
) -> Talk[dict[int, Distributions | SourceError]]:
    """What each source, by number, says after its prefix, all asked at once.

    One whose context window has no room for another token says that instead.
    """
    answers: dict[int, Distributions | SourceError] = {}
    asks: list[AskDistributions] = []
    for k, prefix in prefixes.items():
        limit = sources[k].backend.context_length
        if limit is not None and len(prefix) >= limit:
            answers[k] = ContextLengthError(
                f"The context window of {limit} tokens is full after {len(prefix)} tokens of "
                "prompt and response."
            )
        else:
            asks.append(AskDistributions(k, Query(prefix, lane=state.lane)))
    given: list[Any] = (yield [*asks]) if asks else []
    answers.update((each.source, answer) for each, answer in zip(asks, given, strict=True))
    return {k: answers[k] for k in prefixes}


def spent(answer: Distributions) -> Usage:
    """What one distribution cost."""
    return Usage(0, 1, answer.num_forwarded, answer.num_passes)


def weigh(state: MixtureState, sources: Sequence[Source], prior: PromptPrior) -> Talk[Weighed]:
    """Logarithms of weights by how well sources predict the prompt, and what was read of it.

    Readings are by the numbers of active sources. A source that fails is weighed as an average one.
    """
    read = yield from together(
        [
            read_prompt(k, sources[k], state.prompts[k], state.request.sampling, state.lane)
            for k in state.active
        ]
    )
    readings = dict(zip(state.active, read, strict=True))
    bits = [math.nan] * len(sources)
    for k, reading in readings.items():
        if isinstance(reading, PromptReading):
            bits[k] = reading.bits_per_byte
    return prior.log_weights(bits), readings
