"""Finished evaluations, one JSON line each, on the disk before the search goes on.

The first line, ``{"kind": "run", ...}``, says which experts and which utility; a last line that
was cut off is taken away on opening. A point has one utility, so what the log holds is never
evaluated again: a search that is run once more finds its way to where it was by itself.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.search import Point

if sys.platform != "win32":
    import fcntl

START = b'{"kind": "'


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
        tuple(map(float, data["point"])),
        -math.inf if utility is None else float(utility),
        tuple(map(float, data["parts"])),
        data["failure"],
        float(data["seconds"]),
    )


@final
class SwarmLog:
    """The evaluations of a file, by point; a new file is begun where there is none.

    Raises ``UsageError`` for a file of other ``settings``, naming the one that differs, for
    one that no search wrote, and for one that another process is writing.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.evaluations: dict[Point, Evaluation] = {}
        self._path = path
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(f'Cannot write "{path}": {error.strerror}.') from error
        try:
            self._lock()
            self._begin(json.loads(json.dumps(dict(settings))))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SwarmLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, evaluation: Evaluation) -> None:
        """Keep an evaluation, on the disk before this returns."""
        self._write({"kind": "evaluation", **evaluation_dict(evaluation)})
        self.evaluations[evaluation.point] = evaluation

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f'Another process is searching in "{self._path.parent}". Wait for it, or choose another output folder.'
            ) from None

    def _begin(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole, torn = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
        if torn and not (torn.startswith(START) or START.startswith(torn)):
            raise self._foreign(whole.count(b"\n") + 1)
        lines = whole.split(b"\n")[:-1]
        earlier = [self._read(number, line) for number, line in enumerate(lines, 1)]
        if self.evaluations:
            self._check_same(earlier[0], settings)
            self._file.truncate(len(whole))
        else:  # nothing is lost with it
            self._file.truncate(0)
            self._write({"kind": "run", "settings": settings})

    def _read(self, number: int, line: bytes) -> dict[str, Any]:
        """Take in a line; the settings, if they are in it."""
        try:
            data = json.loads(line)
            if data["kind"] != ("run" if number == 1 else "evaluation"):
                raise ValueError(data["kind"])
            if number == 1:
                return dict(data["settings"])
            evaluation = evaluation_from(data)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._foreign(number) from None
        self.evaluations[evaluation.point] = evaluation
        return {}

    def _check_same(self, earlier: dict[str, Any], settings: dict[str, Any]) -> None:
        for key in sorted(earlier.keys() | settings.keys()):
            if earlier.get(key) != settings.get(key):
                raise UsageError(
                    f'"{self._path}" holds a search with other {key}: {earlier.get(key)}, and this one has '
                    f"{settings.get(key)}. Its utilities mean nothing here; choose another output folder."
                )

    def _write(self, data: Mapping[str, Any]) -> None:
        line = json.dumps(data, ensure_ascii=False).encode("utf-8") + b"\n"
        size = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise CoolfusionError(
                f'Writing "{self._path}" failed: {error.strerror or error}. Earlier evaluations are kept; make room '
                "and run again."
            ) from error

    def _foreign(self, number: int) -> UsageError:
        return UsageError(
            f'"{self._path}" line {number} was not written by a search. Choose another output folder; nothing was '
            "changed."
        )
