"""A response of a mixture in progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coolfusion.decoding.source_weights import normalized, uniform
from coolfusion.decoding.state import ResponseState
from coolfusion.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureState(ResponseState):
    """A response in progress, as its decoder hands it from step to step.

    ``data`` holds the bytes of the response so far; those after ``text`` are the beginning of a
    character. ``position`` is the route's own. ``num_tokens`` of the response so far has an
    entry per source of the decoder (empty: nothing yet).
    """

    position: Any
    data: bytes = b""
    num_tokens: tuple[int, ...] = ()

    @property
    def beginning(self) -> bytes:
        """The bytes after the last complete character."""
        return self.data[len(self.text.encode()) :]


def shares(state: MixtureState, chosen: Sequence[int]) -> Floats:
    """(chosen,) weights of some of the sources, summing to 1; equal where they have none."""
    if not state.log_weights:
        return uniform(len(chosen))
    return normalized(np.exp([state.log_weights[k] for k in chosen]))


def voters(state: MixtureState) -> tuple[int, ...]:
    """The active sources that have a weight; all of them, if none has."""
    weights = shares(state, state.active)
    return tuple(k for k, weight in zip(state.active, weights, strict=True) if weight > 0)
