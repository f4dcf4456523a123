"""A response in progress, as the decoder hands it from step to step."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from coolfusion.backend import Sampling
from coolfusion.canonical import Canonical
from coolfusion.recipe import Request
from coolfusion.tokenizer import Prompt
from coolfusion.types import StopReason


@dataclass(frozen=True, slots=True)
class State:
    """A response in progress.

    ``prompts`` and ``encoded`` have one entry per source of the decoder; ``active`` indexes
    the sources that still take part. ``num_shown`` characters of ``text`` have been emitted.
    ``lane`` tells responses apart in caches; nothing else depends on it.
    """

    request: Request
    prompt: Prompt
    prompts: tuple[tuple[int, ...], ...]
    encoded: tuple[Canonical, ...]
    active: tuple[int, ...]
    lane: int
    text: str = ""
    num_shown: int = 0
    num_steps: int = 0
    stop_reason: StopReason | None = None
    stop_string: str | None = None
    any_failed: bool = False


def sampling_of(request: Request, name: str) -> Sampling:
    """The request's sampling with noise that is the source ``name``'s own."""
    if request.sampling.is_greedy:
        return request.sampling
    seed = request.sampling.seed << 32 | zlib.crc32(name.encode())
    return replace(request.sampling, seed=seed)
