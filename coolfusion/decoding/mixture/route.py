"""The seam between a mixture's decoder and the way it walks: by shared tokens, or by bytes.

What a mixture asks its sources: what comes next, and how well they predict the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from coolfusion.backends.base import Distributions, Query
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.state import MixtureState
from coolfusion.decoding.scheduler import DistributionRequest, Talk, together
from coolfusion.decoding.source_weights import PromptPrior, PromptReading, read_prompt
from coolfusion.errors import ContextLengthError, SourceError
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class Continuation:
    """What one step adds to a response, or the end of it.

    ``data`` may end in the middle of a character. ``position`` is where the route goes on from.
    What has an entry per source is by name, of those that take part: ``log_probs`` (nats) of
    ``data``, and of the end if the response ``ends`` after it; ``num_tokens`` of the whole
    response then; ``usage``. ``favoured`` it were those sources whose own choice would have been
    the same all along. ``log_mixture`` is the mixture's log-probability of it. A log-probability
    that nobody had to know is left out, or NaN. Sources that failed are in ``dropped``; the
    others decided without them. ``is_full``: nothing more fits into ``max_new_tokens``.
    """

    data: bytes
    ends: bool
    position: Any
    log_mixture: float = math.nan
    log_probs: Mapping[str, float] = field(default_factory=dict)
    num_tokens: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    favoured: tuple[str, ...] = ()
    dropped: Mapping[str, SourceError] = field(default_factory=dict)
    is_full: bool = False


class Route(Protocol):
    """A way to walk through a text together. A walk is a pure function of the state."""

    def begin(self, prompts: tuple[tuple[int, ...], ...]) -> Any:
        """The position before the first step, of sources with these prompt ids."""
        ...

    def walk(self, state: MixtureState) -> Talk[Continuation]:
        """Decide at least one more token or character, or the end.

        The bytes of all walks together are the beginning of a text in UTF-8. Where no source is
        left, nothing is decided. Raises ``SourceError`` where the sources together have nothing
        to go on with.
        """
        ...


Weighed: TypeAlias = tuple[tuple[float, ...], dict[int, PromptReading | SourceError]]


def ask_next(
    state: MixtureState, sources: Sequence[Source], prefixes: dict[int, tuple[int, ...]]
) -> Talk[dict[int, Distributions | SourceError]]:
    """What each source, by number, says after its prefix, all asked at once.

    One whose context window has no room for another token says that instead.
    """
    answers: dict[int, Distributions | SourceError] = {}
    asks: list[DistributionRequest] = []
    for k, prefix in prefixes.items():
        limit = sources[k].backend.context_length
        if limit is not None and len(prefix) >= limit:
            answers[k] = ContextLengthError(
                f"The context window of {limit} tokens is full after {len(prefix)} tokens of "
                "prompt and response."
            )
        else:
            asks.append(DistributionRequest(k, Query(prefix, sequence_id=state.sequence_id)))
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
            read_prompt(k, sources[k], state.prompts[k], state.request.sampling, state.sequence_id)
            for k in state.active
        ]
    )
    readings = dict(zip(state.active, read, strict=True))
    bits = [math.nan] * len(sources)
    for k, reading in readings.items():
        if isinstance(reading, PromptReading):
            bits[k] = reading.bits_per_byte
    return prior.log_weights(bits), readings
