"""The seam between a mixture's decoder and its route: by shared tokens, bytes or strings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coolfusion.backends.base import Distributions
from coolfusion.decoding.mixture.state import MixtureState
from coolfusion.decoding.scheduler import ask_distributions, gather
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import SourceError
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class Continuation:
    """What one step adds to a response, or the end of it.

    ``data`` may end in the middle of a character. ``position`` is where the route goes on from.
    Entries per source are by name, for those that take part. ``log_probs`` (nats) are of
    ``data``, and of the end if the response ``ends`` after it. ``num_tokens`` counts the whole
    response then. The sources in ``favoured`` would have chosen the same alone. ``log_mixture``
    is the mixture's log-probability of it. A log-probability that was not needed is left out, or
    NaN. Sources that failed are in ``dropped``; the others decided without them. Of sources in
    ``zeros``, a probability of 0 decided against all others. ``is_full``: nothing more fits into
    ``max_new_tokens``.
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
    zeros: Mapping[str, str] = field(default_factory=dict)


class Route(Protocol):
    """A way to walk through a text together. A walk is a pure function of the state."""

    def begin(self, prompts: tuple[tuple[int, ...], ...]) -> Any:
        """The position before the first step, of sources with these prompt ids."""
        ...

    async def walk(self, state: MixtureState) -> Continuation:
        """Decide at least one more token or character, or the end.

        The bytes of all walks together are the beginning of a text in UTF-8. Where no source is
        left, nothing is decided. Raises ``SourceError`` where the sources together have nothing
        to go on with.
        """
        ...


async def next_distribution(view: SourceView, ids: tuple[int, ...]) -> Distributions:
    """What a source says comes after its prompt and ``ids`` of the response.

    Raises ``ContextLengthError`` where its context window has no room for another token.
    """
    prefix = view.prompt_ids + ids
    view.check_room(len(prefix))
    (answer,) = await ask_distributions([view.distribution_request(prefix)])
    return answer


async def next_distributions(
    views: Sequence[SourceView], ids: Sequence[tuple[int, ...]]
) -> dict[int, Distributions | SourceError]:
    """What each source says after its own ``ids``, or its error, by source number."""
    answers = await gather(
        [next_distribution(view, own) for view, own in zip(views, ids, strict=True)]
    )
    return {view.index: answer for view, answer in zip(views, answers, strict=True)}


def spent(answer: Distributions) -> Usage:
    """What one distribution cost."""
    return Usage(0, 1, answer.num_forwarded, answer.num_passes)
