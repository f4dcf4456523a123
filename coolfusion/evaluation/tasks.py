"""Tasks: prompts with the references that answers are held against, as JSON lines.

    {"prompt": "2 + 3 =", "reference": "5"}
    {"id": "b", "messages": [{"role": "user", "content": "..."}], "reference": ["7", "seven"],
     "metric": "contains"}
    {"prompts": {"mt": "Der Hund.", "llm": "Say in English: Der Hund."}, "reference": "The dog."}

A row is read as ``coolfusion.evaluation.rows`` says. It also has a "reference" (text, a number,
or a list of texts of which any will do), and if wanted a "metric".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.decoding.request import Request
from coolfusion.errors import PromptError, UsageError
from coolfusion.evaluation.rows import InputRow, fingerprint, read_rows, request_with, rows_from
from coolfusion.tokenization.prompts import Prompt, check_prompt_names

KEYS = ("reference", "metric")


@dataclass(frozen=True, slots=True)
class Row:
    """One question. ``place`` says where it stands, for messages: a file and line.

    ``options`` are those of a request that the row has itself.
    """

    id: str | int
    prompt: Prompt
    references: tuple[str, ...]
    metric: str | None = None
    place: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def request(self, request: Request) -> Request:
        """``request`` with the row's own options in the place of its own."""
        return request_with(self.options, request)

    def digest(self, *, with_references: bool = False) -> str:
        """A short fingerprint of what is asked, by which a resumed run knows the row again."""
        if with_references:  # scoring decodes nothing, so that options change nothing
            return fingerprint([self.prompt, self.references], {})
        return fingerprint(self.prompt, self.options)


@dataclass(frozen=True, slots=True)
@checked_fields
class Task:
    """A named list of rows with distinct ids, in order."""

    name: str
    rows: tuple[Row, ...]

    @checked
    def first(self, count: int | None) -> Task:
        """The task of the first ``count`` rows (None: all). Raises ``UsageError`` below 1."""
        if count is not None and count < 1:
            raise UsageError(f"The limit of rows is {count}; it must be at least 1.")
        return replace(self, rows=self.rows[:count])

    def check_names(self, names: Sequence[str]) -> None:
        """Raise ``UsageError`` for a row with prompts for others than these sources, or not for all."""
        for row in self.rows:
            try:
                check_prompt_names(row.prompt, names)
            except PromptError as error:
                raise UsageError(f"{row.place or f'Row {row.id!r}'}: {error}") from None


@checked
def read_task(path: str | PathLike[str]) -> Task:
    """Read a task from a file. Raises ``UsageError`` naming the file and line that is wrong."""
    return _task(Path(path).stem, read_rows(path, KEYS))


@checked
def make_task(name: str, rows: Iterable[Mapping[str, Any]]) -> Task:
    """A task from rows in memory, with the keys they would have in a file."""
    records = [(f'Task "{name}" row {number}', row) for number, row in enumerate(rows)]
    return _task(name, rows_from(records, KEYS))


def _task(name: str, rows: tuple[InputRow, ...]) -> Task:
    if not rows:
        raise UsageError(f'The task "{name}" has no rows, so there is nothing to measure.')
    return Task(name, tuple(map(_row, rows)))


def _row(row: InputRow) -> Row:
    metric = row.others.get("metric")
    if metric is not None and not isinstance(metric, str):
        raise UsageError(f'{row.place} has the "metric" {metric!r}; it must be a metric\'s name.')
    references = _references(row.place, row.others)
    return Row(row.id, row.prompt, references, metric, row.place, row.options)


def _references(place: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    if record.get("reference") is None:
        raise UsageError(
            f'{place} has no "reference", so no answer to it can be right. Add one or leave the row out.'
        )
    given = record["reference"]
    entries = given if isinstance(given, list) else [given]
    if not entries or not all(_is_reference(entry) for entry in entries):
        raise UsageError(
            f'{place} has the "reference" {given!r}; it must be text that can be encoded and is not '
            "blank, a finite number or a list of these."
        )
    return tuple(str(entry) for entry in entries)


def _is_reference(entry: object) -> bool:
    if isinstance(entry, str):
        return bool(entry.strip()) and not any("\ud800" <= char <= "\udfff" for char in entry)
    if isinstance(entry, float):
        return math.isfinite(entry)
    return isinstance(entry, int) and not isinstance(entry, bool)
