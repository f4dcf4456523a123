"""Evaluation of points: each is written, loaded, measured and removed, one per device at a time."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coolfusion.merging.merged import MergedCheckpoint
from coolfusion.search import Point
from coolfusion.swarm.experts import at
from coolfusion.swarm.log import Evaluation
from coolfusion.swarm.particle import BrokenParticleError, written
from coolfusion.swarm.utility import Utility, harmonic_mean

SMALL = 64 * 2**20  # bytes of a model up to which memory is left to the garbage collector


class Evaluator(Protocol):
    """Evaluates points. The end of its ``with`` block frees its resources."""

    def evaluate(self, points: Sequence[Point]) -> Iterator[Evaluation]:
        """An evaluation of each point, in the order in which they finish.

        Raises ``CoolfusionError`` if one cannot be made, after all that have finished.
        """

    def __enter__(self) -> Evaluator:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """Free everything, and stop evaluations that still run."""


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Evaluates in this process, on one device. ``scratch`` is a folder for particles."""

    opened: MergedCheckpoint
    utility: Utility
    scratch: Path
    device: str | None = None

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def evaluate(self, points: Sequence[Point]) -> Iterator[Evaluation]:
        """One after another."""
        yield from map(self.evaluate_one, points)

    def evaluate_one(self, point: Point) -> Evaluation:
        """The evaluation of one point. A model that does not work has a failure instead of parts."""
        begun = time.perf_counter()
        parts: tuple[float, ...] = ()
        utility, failure = -math.inf, None
        try:
            with written(at(self.opened, point), self.scratch) as folder:
                parts = self.utility.parts(folder, self.device)
                utility = harmonic_mean(parts)
        except BrokenParticleError as error:
            failure = str(error)
        # A FunctionMeasure may leave a model to the garbage collector, and the next needs its memory.
        if sum(info.num_bytes for info in self.opened.about.infos.values()) > SMALL:
            gc.collect()
        return Evaluation(point, utility, parts, failure, time.perf_counter() - begun)
