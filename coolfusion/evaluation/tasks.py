"""Tasks: prompts with the references that answers are held against, as JSON lines.

    {"prompt": "2 + 3 =", "reference": "5"}
    {"id": "b", "messages": [{"role": "user", "content": "..."}], "reference": ["7", "seven"],
     "metric": "contains"}
    {"prompts": {"mt": "Der Hund.", "llm": "Say in English: Der Hund."}, "reference": "The dog."}

A row is a "prompt" or "messages", a "reference" (text, a number, or a list of texts of which
any will do), and if wanted an "id" (default: the row's number from 0) and a "metric". A source
named in "prompts" is given what stands there, text or messages, in place of the row's prompt,
which a row that names all sources can do without.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

from coolfusion.errors import PromptError, UsageError
from coolfusion.tokenization.prompts import (
    EVERYONE_ELSE,
    Message,
    OwnPrompt,
    Prompt,
    check_prompt_names,
)


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

    def check_names(self, names: Sequence[str]) -> None:
        """Raise ``UsageError`` for a row with prompts for others than these sources, or not for all."""
        for row in self.rows:
            try:
                check_prompt_names(row.prompt, names)
            except PromptError as error:
                raise UsageError(f"{row.place or f'Row {row.id!r}'}: {error}") from None


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
            f'{place} is {record!r}; a row is an object with "prompt", "messages" or "prompts", and "reference".'
        )
    row_id = record.get("id", number)
    if not isinstance(row_id, (str, int)) or isinstance(row_id, bool):
        raise UsageError(f'{place} has the "id" {row_id!r}; it must be text or a whole number.')
    metric = record.get("metric")
    meant = _meant(record, "metric") if metric is None else None
    if meant is not None:
        raise UsageError(
            f'{place} has the key "{meant}", which no row has. Call it "metric" if it is one, or leave '
            "it out; as it stands the row would be judged by another."
        )
    if metric is not None and not isinstance(metric, str):
        raise UsageError(f'{place} has the "metric" {metric!r}; it must be a metric\'s name.')
    return Row(row_id, _prompt(place, record), _references(place, record), metric, place)


def _meant(record: Mapping[str, Any], key: str) -> str | None:
    """The key of a row that is almost ``key``, if there is one."""
    names = [str(name) for name in record if name != key]
    return next(iter(difflib.get_close_matches(key, names, 1, cutoff=0.8)), None)


def _prompt(place: str, record: Mapping[str, Any]) -> Prompt:
    prompt, messages, own = (record.get(key) for key in ("prompt", "messages", "prompts"))
    if (prompt is not None and messages is not None) or (prompt, messages, own) == (None,) * 3:
        raise UsageError(
            f'{place} must have either a "prompt" or "messages", or "prompts" for all sources.'
        )
    prompts: dict[str, OwnPrompt] = {}
    if own is not None:
        if not isinstance(own, Mapping) or not own:
            raise UsageError(
                f'{place} has the "prompts" {own!r}; they map names of sources to texts or messages.'
            )
        prompts = {str(name): _own_prompt(place, f"prompts {name}", own[name]) for name in own}
    if prompt is not None:
        prompts[EVERYONE_ELSE] = _text(place, "prompt", prompt)
    elif messages is not None:
        prompts[EVERYONE_ELSE] = _messages(place, "messages", messages)
    return prompts[EVERYONE_ELSE] if own is None else prompts


def _own_prompt(place: str, key: str, value: Any) -> OwnPrompt:
    return _text(place, key, value) if isinstance(value, str) else _messages(place, key, value)


def _text(place: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f'{place} has the "{key}" {value!r}; it must be text, not empty.')
    return value


def _messages(place: str, key: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UsageError(f'{place} has no list of chat messages in "{key}".')
    return [_message(place, message) for message in value]


def _message(place: str, message: Any) -> Message:
    role = message.get("role") if isinstance(message, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise UsageError(f'{place} has the message {message!r}; it needs a "role" and "content".')
    return {"role": role, "content": content}


def _references(place: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    if record.get("reference") is None:
        meant = _meant(record, "reference")
        instead = f' It has "{meant}"; did you mean that?' if meant else ""
        raise UsageError(
            f'{place} has no "reference", so no answer to it can be right.{instead} Add one or leave the '
            "row out."
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
