"""Traces: responses as JSON lines, written step by step and read back as equal objects.

A response is a "start" line, one "step" line per step, and an "end" line. A trace without its end
reads as an interrupted response.

One process writes a trace at a time. What the file held is there until the first line is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Any, final

from coolfusion.checks.arguments import checked
from coolfusion.documents import (
    check_regular,
    json_ready,
    json_text,
    number_from,
    parsed_json,
    shown,
)
from coolfusion.errors import UsageError
from coolfusion.jsonlog import LockedFile
from coolfusion.types import Candidate, Generation, SkippedSource, Step, StopReason, Usage


@final
class TraceFile:
    """A file for traces that nobody else writes while it is open.

    The first line replaces what it held. A file that was made and got no line is removed again.
    Raises ``UsageError`` for a path that is no regular file, and for a file that is being written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._is_new = not Path(path).exists()
        self._file = LockedFile(path)
        self._has_begun = False

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_new and not self._has_begun:
            self._file.path.unlink(missing_ok=True)
        self._file.close()

    def begin(self) -> None:
        """Remove what the file held, if no line has done so yet."""
        if not self._has_begun:
            self._file.cut(0)
        self._has_begun = True

    def write(self, line: str) -> None:
        """Add a line, whole. Raises ``CoolfusionError`` where that fails; earlier lines stay."""
        self.begin()
        self._file.append(line.encode(), is_synced=False)

    def flush(self) -> None:
        """Nothing is held back."""


@final
class TraceWriter:
    """Writes one response after another to a ``TraceFile`` or a text stream, a line at a time."""

    def __init__(self, file: TraceFile | IO[str]) -> None:
        self._file = file

    def start(self, sources: Iterable[str], prompt: object) -> None:
        """Open a response to ``prompt``."""
        self._write({"kind": "start", "sources": list(sources), "prompt": prompt})

    def step(self, step: Step) -> None:
        """Record one step."""
        self._write({"kind": "step", **dataclasses.asdict(step)})

    def end(self, generation: Generation) -> None:
        """Close the response."""
        self._write(
            {
                "kind": "end",
                "stop_reason": generation.stop_reason.value,
                "stop_string": generation.stop_string,
                "text": generation.text,
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json_text(record) + "\n")
        self._file.flush()


@checked
def write_trace(
    path: str | PathLike[str], generations: Iterable[Generation], prompt: object = None
) -> None:
    """Write whole responses to ``path``; what the file held is replaced when the first begins.

    Raises ``UsageError`` for a path that is no regular file, and for a file that another process is
    writing. Raises ``CoolfusionError`` where writing fails; steps written before that stay.
    """
    try:
        json_text(prompt)
    except UsageError:
        raise UsageError(
            f"prompt is {shown(prompt)}; a trace can hold what JSON can: texts, numbers, lists and "
            "objects of these."
        ) from None
    with TraceFile(path) as file:
        writer = TraceWriter(file)
        for generation in generations:
            writer.start(generation.sources, prompt)
            for step in generation.steps:
                writer.step(step)
            writer.end(generation)
        file.begin()  # a trace of no response is empty


@checked
def read_trace(path: str | PathLike[str]) -> list[Generation]:
    """The responses of a trace. Raises ``UsageError`` for a file that is not a trace."""
    try:
        check_regular(path)  # a pipe would be waited for
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            return list(_generations(file, str(path)))
    except OSError as error:
        raise UsageError(
            f'Cannot read the trace "{path}": {error.strerror or error}. Give another path.'
        ) from error


def step_to_dict(step: Step) -> dict[str, Any]:
    """A step as JSON-ready data: infinities as text, NaN as null."""
    plain: dict[str, Any] = json_ready(dataclasses.asdict(step))
    return plain


def step_from_dict(record: dict[str, Any]) -> Step:
    """The inverse of ``step_to_dict``."""
    return Step(
        **{
            **record,
            "sources": tuple(record["sources"]),
            "candidates": tuple(_candidate(entry) for entry in record["candidates"]),
            "log_end": _numbers(record["log_end"]),
            "withdrawn": tuple(SkippedSource(**entry) for entry in record["withdrawn"]),
            "dropped": tuple(SkippedSource(**entry) for entry in record["dropped"]),
            "usage": tuple(Usage(**entry) for entry in record["usage"]),
            "zeros": tuple(SkippedSource(**entry) for entry in record.get("zeros", ())),
            "seconds": number_from(record["seconds"]),
        }
    )


def _candidate(record: dict[str, Any]) -> Candidate:
    num_tokens = record["num_tokens"]
    return Candidate(
        record["text"],
        record["ends"],
        tuple(record["drafters"]),
        _numbers(record["log_likelihoods"]),
        None if num_tokens is None else tuple(num_tokens),
        None if record["cost"] is None else number_from(record["cost"]),
    )


def _numbers(values: list[Any] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(number_from(value) for value in values)


def _generations(lines: Iterable[str], path: str) -> Iterator[Generation]:
    sources: tuple[str, ...] | None = None
    steps: list[Step] = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break  # the last line was being written when the program died
        try:
            record = parsed_json(line)
            kind = record.pop("kind")
            if kind == "start":
                if sources is not None:
                    yield _interrupted(sources, steps)
                sources, steps = tuple(record["sources"]), []
            elif kind == "step":
                steps.append(step_from_dict(record))
            elif kind == "end" and sources is not None:
                reason = StopReason(record["stop_reason"])
                yield Generation(
                    record["text"], reason, record["stop_string"], sources, tuple(steps)
                )
                sources, steps = None, []
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path} is not a trace: line {number} cannot be read ({error})."
            ) from error
    if sources is not None:
        yield _interrupted(sources, steps)


def _interrupted(sources: tuple[str, ...], steps: list[Step]) -> Generation:
    text = "".join(step.text for step in steps)
    return Generation(text, StopReason.INTERRUPTED, None, sources, tuple(steps))
