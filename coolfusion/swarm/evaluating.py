"""Points into utilities: written out, loaded, measured and removed again, one per device at a time."""

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

SMALL = 64 * 2**20  # bytes of a model that can wait for the garbage collector's own time


class Evaluator(Protocol):
    """Evaluates points; what it holds is let go when its ``with`` block ends."""

    def evaluate(self, points: Sequence[Point]) -> Iterator[Evaluation]:
        """An evaluation of each point, in the order in which they finish.

        Raises ``CoolfusionError`` where one cannot be made; all that finished have been given.
        """

    def __enter__(self) -> Evaluator:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """Let go, whatever is under way."""


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
        # A function of one's own may leave a model to the garbage collector; the next one needs the room.
        if sum(info.num_bytes for info in self.opened.about.infos.values()) > SMALL:
            gc.collect()
        return Evaluation(point, utility, parts, failure, time.perf_counter() - begun)
