"""Tasks: prompts with the references that answers are held against, as JSON lines.

    {"prompt": "2 + 3 =", "reference": "5"}
    {"id": "b", "messages": [{"role": "user", "content": "..."}], "reference": ["7", "seven"],
     "metric": "contains"}

A row is a "prompt" or "messages", a "reference" (text, a number, or a list of texts of which
any will do), and if wanted an "id" (default: the row's number from 0) and a "metric".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

from coolfusion.errors import UsageError
from coolfusion.tokenizer import Message, Prompt


@dataclass(frozen=True, slots=True)
class Row:
    """One question. ``place`` says where it stands, for messages: a file and line."""

    id: str | int
    prompt: Prompt
    references: tuple[str, ...]
    metric: str | None = None
    place: str = ""

    def digest(self, *, with_references: bool = False) -> str:
        """A short fingerprint of what is asked, by which a resumed run knows the row again."""
        asked = [self.prompt, self.references] if with_references else self.prompt
        text = json.dumps(asked, sort_keys=True)
        return blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Task:
    """A named list of rows with distinct ids, in order."""

    name: str
    rows: tuple[Row, ...]

    def first(self, count: int | None) -> Task:
        """The task of the first ``count`` rows (None: all). Raises ``UsageError`` below 1."""
        if count is not None and count < 1:
            raise UsageError(f"The limit of rows is {count}; it must be at least 1.")
        return replace(self, rows=self.rows[:count])


def read_task(path: str | PathLike[str]) -> Task:
    """Read a task from a file. Raises ``UsageError`` naming the file and line that is wrong."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f'Cannot read the task "{path}": {error.strerror}.') from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f'The task "{path}" is not UTF-8 at byte {error.start}. Convert it first.'
        ) from None
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f'"{path}" line {number}'
        try:
            records.append((place, json.loads(line)))
        except ValueError as error:
            raise UsageError(f"{place} is not JSON: {error}.") from None
    return _task(Path(path).stem, records)


def make_task(name: str, rows: Iterable[Mapping[str, Any]]) -> Task:
    """A task from rows in memory, with the keys they would have in a file."""
    return _task(name, [(f'Task "{name}" row {number}', row) for number, row in enumerate(rows)])


def _task(name: str, records: list[tuple[str, Any]]) -> Task:
    rows = [_row(place, number, record) for number, (place, record) in enumerate(records)]
    if not rows:
        raise UsageError(f'The task "{name}" has no rows, so there is nothing to measure.')
    seen: dict[str | int, str] = {}
    for row in rows:
        if row.id in seen:
            raise UsageError(
                f"{row.place} has the id {row.id!r} of {seen[row.id]}. Ids tell rows apart on resuming."
            )
        seen[row.id] = row.place
    return Task(name, tuple(rows))


def _row(place: str, number: int, record: Any) -> Row:
    if not isinstance(record, Mapping):
        raise UsageError(
            f'{place} is {record!r}; a row is an object with "prompt" or "messages" and "reference".'
        )
    row_id = record.get("id", number)
    if not isinstance(row_id, (str, int)) or isinstance(row_id, bool):
        raise UsageError(f'{place} has the "id" {row_id!r}; it must be text or a whole number.')
    metric = record.get("metric")
    if metric is not None and not isinstance(metric, str):
        raise UsageError(f'{place} has the "metric" {metric!r}; it must be a metric\'s name.')
    return Row(row_id, _prompt(place, record), _references(place, record), metric, place)


def _prompt(place: str, record: Mapping[str, Any]) -> Prompt:
    prompt, messages = record.get("prompt"), record.get("messages")
    if (prompt is None) == (messages is None):
        raise UsageError(f'{place} must have either a "prompt" or "messages".')
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt:
            raise UsageError(f'{place} has the "prompt" {prompt!r}; it must be text, not empty.')
        return prompt
    if not isinstance(messages, list) or not messages:
        raise UsageError(f'{place} has no list of chat messages in "messages".')
    return [_message(place, message) for message in messages]


def _message(place: str, message: Any) -> Message:
    role = message.get("role") if isinstance(message, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise UsageError(f'{place} has the message {message!r}; it needs a "role" and "content".')
    return {"role": role, "content": content}


def _references(place: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    if record.get("reference") is None:
        raise UsageError(
            f'{place} has no "reference", so no answer to it can be right. Add one or leave the row out.'
        )
    given = record["reference"]
    entries = given if isinstance(given, list) else [given]
    if not entries or not all(_is_reference(entry) for entry in entries):
        raise UsageError(
            f'{place} has the "reference" {given!r}; it must be text, a number or a list of texts.'
        )
    return tuple(str(entry) for entry in entries)


def _is_reference(entry: object) -> bool:
    return isinstance(entry, (str, int, float)) and not isinstance(entry, bool) and entry != ""
