"""Finished evaluations, one JSON line each, on the disk before the search goes on.

The first line, ``{"kind": "run", ...}``, says which experts and which utility. A point has one
utility, so what the log holds is never evaluated again. A search that is run once more finds
its way to where it was by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

from coolfusion.documents import number_from
from coolfusion.jsonlog import JsonLog
from coolfusion.search import Point

START = r'\{"kind": "evaluation", '


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one point came to.

    ``parts`` are the measures; ``utility`` is minus infinity, and ``failure`` says why, for a
    model that does not work. ``seconds``: writing, loading and measuring together.
    """

    point: Point
    utility: float
    parts: tuple[float, ...] = ()
    failure: str | None = None
    seconds: float = 0.0


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """JSON-ready data; the utility of what does not work is null."""
    works = evaluation.utility > -math.inf
    return {**asdict(evaluation), "utility": evaluation.utility if works else None}


def evaluation_from(data: Mapping[str, Any]) -> Evaluation:
    """What ``evaluation_dict`` wrote."""
    utility = data["utility"]
    return Evaluation(
        tuple(map(number_from, data["point"])),
        -math.inf if utility is None else float(utility),
        tuple(map(number_from, data["parts"])),
        data["failure"],
        number_from(data["seconds"]),
    )


@final
class SwarmLog:
    """The evaluations of a file, by point; a ``JsonLog`` holds them.

    Raises ``UsageError`` for a file of other ``settings``, naming those that differ. It also
    refuses a file that no search wrote, and one that another process is writing.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.evaluations: dict[Point, Evaluation] = {}
        self._log = JsonLog(path, self._take, start=START, settings=settings)

    def __enter__(self) -> SwarmLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.__exit__(kind, error, trace)

    def add(self, evaluation: Evaluation) -> None:
        """Keep an evaluation, on the disk before this returns."""
        self._log.append({"kind": "evaluation", **evaluation_dict(evaluation)})
        self.evaluations[evaluation.point] = evaluation

    def _take(self, record: dict[str, Any]) -> None:
        if record["kind"] != "evaluation":
            raise ValueError(record["kind"])
        evaluation = evaluation_from(record)
        self.evaluations[evaluation.point] = evaluation
