"""The seam between a mixture's decoder and the way it walks: by shared tokens, or by bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from coolfusion.asking import Talk
from coolfusion.errors import SourceError
from coolfusion.mixture.state import MixtureState
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class Stretch:
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

    def walk(self, state: MixtureState) -> Talk[Stretch]:
        """Decide at least one more token or character, or the end.

        The bytes of all walks together are the beginning of a text in UTF-8. Where no source is
        left, nothing is decided. Raises ``SourceError`` where the sources together have nothing
        to go on with.
        """
        ...
