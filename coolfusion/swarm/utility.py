"""The utility of a particle: one measure, or the harmonic mean of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.evaluation import Row, Task
from coolfusion.swarm.measures import (
    Answering,
    FunctionMeasure,
    HarnessMeasure,
    Measure,
    TaskMeasure,
)
from coolfusion.swarm.particle import Loading, Particle

_KINDS = {"function": FunctionMeasure, "harness": HarnessMeasure, "task": TaskMeasure}


@dataclass(frozen=True, slots=True)
@checked_fields
class Utility:
    """The measures of a utility, and how a particle is loaded for them.

    Raises ``UsageError`` without measures.
    """

    measures: tuple[Measure, ...]
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        if not self.measures:
            raise UsageError("A utility needs at least one measure: a task or a function.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(measure.name for measure in self.measures)

    def parts(self, folder: Path, device: str | None) -> tuple[float, ...]:
        """The values of all measures for the checkpoint in ``folder``.

        Raises ``BrokenParticleError`` for a model that does not work.
        """
        particle = Particle(folder, device, self.loading)
        try:
            return tuple(measure.value(particle) for measure in self.measures)
        finally:
            particle.release()

    def identity(self) -> dict[str, Any]:
        """JSON-ready data that differs between utilities whose values could differ."""
        return {
            "loading": asdict(self.loading),
            "measures": [dict(measure.identity()) for measure in self.measures],
        }


@checked
def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean of numbers >= 0, which is 0 if one of them is. One number is its own mean.

    Raises ``CoolfusionError`` for a negative number among several.
    """
    if not values:
        raise UsageError("values is empty, and nothing has no mean. Give at least one number.")
    if len(values) == 1:
        return values[0]
    if min(values) < 0:
        raise CoolfusionError(
            f"The utilities {list(values)} have no harmonic mean, as one is below 0. Shift that measure, or search "
            "on one alone."
        )
    if not all(values):
        return 0.0
    return len(values) / math.fsum(1 / value for value in values)


def utility_dict(utility: Utility) -> dict[str, Any]:
    """A utility as JSON-ready data for another process.

    Raises ``UsageError`` for measures of other classes than the package's.
    """
    entries = []
    for measure in utility.measures:
        kind = next((name for name, of in _KINDS.items() if type(measure) is of), None)
        if kind is None:
            raise UsageError(
                f"The measure {measure.name} is a {type(measure).__name__}, which other processes do not know. "
                "Use one device, or a FunctionMeasure."
            )
        entries.append({"kind": kind, **asdict(measure)})  # type: ignore[call-overload]
    return {"loading": asdict(utility.loading), "measures": entries}


def utility_from(data: dict[str, Any]) -> Utility:
    """The inverse of ``utility_dict``."""
    measures: list[Measure] = []
    for entry in data["measures"]:
        given = dict(entry)
        kind = _KINDS[given.pop("kind")]
        if "answering" in given:
            how = given["answering"]
            given["answering"] = Answering(**{**how, "stop": tuple(how["stop"])})
        if kind is TaskMeasure:
            rows = [
                Row(**{**row, "references": tuple(row["references"])})
                for row in given["task"]["rows"]
            ]
            given["task"] = Task(given["task"]["name"], tuple(rows))
        measures.append(kind(**given))
    return Utility(tuple(measures), Loading(**data["loading"]))
