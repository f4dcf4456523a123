"""A response in progress, as the decoder hands it from step to step."""

from __future__ import annotations

from dataclasses import dataclass

from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.rerankers import Tally
from coolfusion.tokenization.canonical import Canonical
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import StopReason


@dataclass(frozen=True, slots=True)
class State:
    """A response in progress.

    ``prompts`` and ``encoded`` have one entry per source of the decoder; ``active`` indexes
    the sources that still take part. ``num_shown`` characters of ``text`` have been emitted.
    ``sequence_id`` tells responses apart in caches; nothing else depends on it (None: nothing is
    remembered between steps).

    What the response has taught of the sources has one entry per source of the decoder too,
    or none yet: ``log_weights``, the logarithms of weights that sum to 1 (none: equal), and
    ``tallies``. ``num_contests`` steps had sources score, which took ``num_scored`` tokens.
    """

    request: Request
    prompt: Prompt
    prompts: tuple[tuple[int, ...], ...]
    encoded: tuple[Canonical, ...]
    active: tuple[int, ...]
    sequence_id: int | None
    text: str = ""
    num_shown: int = 0
    num_steps: int = 0
    stop_reason: StopReason | None = None
    stop_string: str | None = None
    any_failed: bool = False
    log_weights: tuple[float, ...] = ()
    tallies: tuple[Tally, ...] = ()
    num_contests: int = 0
    num_scored: int = 0
