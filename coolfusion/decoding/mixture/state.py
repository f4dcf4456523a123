"""A response of a mixture in progress, as its decoder hands it from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coolfusion.decoding.request import Request
from coolfusion.decoding.source_weights import uniform
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Floats, StopReason


@dataclass(frozen=True, slots=True)
class MixtureState:
    """A response in progress.

    ``prompts`` has one entry per source of the decoder, and so has ``log_weights`` (logarithms of
    weights that sum to 1; none: not known yet); ``active`` indexes the sources that still take
    part. ``num_tokens`` of the response so far has an entry per source too (none: nothing yet).
    ``data`` holds the bytes of the response so far; those after ``text`` are the beginning
    of a character. ``num_shown`` characters of ``text`` have been emitted. ``position`` is the
    route's own. ``sequence_id`` tells responses apart in caches; nothing else depends on it.
    """

    request: Request
    prompt: Prompt
    prompts: tuple[tuple[int, ...], ...]
    active: tuple[int, ...]
    position: Any
    sequence_id: int | None
    data: bytes = b""
    text: str = ""
    num_shown: int = 0
    num_steps: int = 0
    stop_reason: StopReason | None = None
    stop_string: str | None = None
    any_failed: bool = False
    log_weights: tuple[float, ...] = ()
    num_tokens: tuple[int, ...] = ()


def shares(state: MixtureState, chosen: Sequence[int]) -> Floats:
    """(chosen,) weights of some of the sources, summing to 1; equal where they have none."""
    if not state.log_weights:
        return uniform(len(chosen))
    weights: Floats = np.exp([state.log_weights[k] for k in chosen])
    total = weights.sum()
    return weights / total if total else uniform(len(chosen))


def voters(state: MixtureState) -> tuple[int, ...]:
    """The active sources that have a weight; all of them, if none has."""
    weights = shares(state, state.active)
    return tuple(k for k, weight in zip(state.active, weights, strict=True) if weight > 0)
