"""The one reader of rows: JSON lines that ``generate``, ``eval``, ``tune`` and ``swarm`` are given.

    "2 + 3 ="
    {"id": "b", "messages": [{"role": "user", "content": "..."}], "max_new_tokens": 20}
    {"prompts": {"mt": "Der Hund.", "llm": "Say in English: Der Hund."}, "topic": "dogs"}

A row is a text, or an object with a "prompt" or "messages". A source named in "prompts" is given
what stands there in place of it; a row that names all sources can do without. Options of a request
("max_new_tokens", "stop", "seed" and so on) replace the command's for this row. An "id" is text or
a whole number (default: the row's number from 0). Other keys are the user's own and are kept,
except for one that is almost the name of a key above, which is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

from coolfusion.checks.strict_json import check_whole, strict_json
from coolfusion.config.kinds import Option
from coolfusion.config.options import BY_NAME, RESPONSE, options_of
from coolfusion.config.spelling import FOREIGN, did_you_mean
from coolfusion.decoding.request import Request
from coolfusion.documents import MAX_BYTES, json_text, read_file, shown
from coolfusion.errors import PromptError, UsageError
from coolfusion.tokenization.prompts import (
    EVERYONE_ELSE,
    Message,
    OwnPrompt,
    Prompt,
    checked_message,
)

PROMPT_KEYS = ("prompt", "messages", "prompts")
_OPTIONS: Mapping[str, Option] = {each.name: each for each in options_of(RESPONSE)}
# What other libraries call an option of a request, or what they have as one.
_FOREIGN = {
    name
    for name, meaning in FOREIGN.items()
    if all(each in _OPTIONS or each not in BY_NAME for each in meaning.names)
}
_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True, slots=True)
class InputRow:
    """One prompt of a file.

    ``options`` are the row's own options of a request. ``others`` are the keys that mean nothing to
    the reader. ``place`` is the row's file and line.
    """

    id: str | int
    prompt: Prompt
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)
    place: str = ""

    def digest(self) -> str:
        """A short fingerprint of what is asked, by which a resumed run knows the row again."""
        return fingerprint(self.prompt, self.options)


def fingerprint(asked: Any, options: Mapping[str, Any]) -> str:
    """16 hexadecimal digits for JSON-ready data and the options of a request beside it."""
    whole = [asked, dict(options)] if options else asked
    text = json_text(whole, sort_keys=True, ascii_only=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def check_unchanged(what: str, changed: Sequence[str]) -> None:
    """Raise ``UsageError`` if there are ``changed`` rows, which ask something else than before.

    ``what`` has answered them, and they are named with their places.
    """
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(
            f"{what} has answered something else than what these rows ask now: {', '.join(changed[:3])}{more}. "
            "Delete their lines to answer them anew, give rows ids of their own, or choose another "
            "output; nothing was changed."
        )


def request_with(options: Mapping[str, Any], request: Request) -> Request:
    """``request`` with the options of a row in the place of its own."""
    sampling = {key: value for key, value in options.items() if key in _SAMPLING}
    rest = {key: value for key, value in options.items() if key not in _SAMPLING}
    if "stop" in rest:
        rest["stop"] = (rest["stop"],) if isinstance(rest["stop"], str) else tuple(rest["stop"])
    return replace(request, sampling=replace(request.sampling, **sampling), **rest)


def read_rows(path: str | PathLike[str], keys: Sequence[str] = ()) -> tuple[InputRow, ...]:
    """The rows of a JSON lines file; ``keys`` are further ones that the caller understands.

    A byte order mark is no part of the first row. A file may have any size, and what a shell hands over
    (``/dev/stdin``) ``MAX_BYTES``. Raises ``UsageError`` naming the file and line that
    is wrong, and for a file without rows.
    """
    try:
        file = Path(path)
        size = file.stat().st_size if file.is_file() else 0  # of a stream, which may never end
        data = read_file(path, max_bytes=max(size, MAX_BYTES), streams=True)
        text = data.decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise UsageError(f'Cannot read "{path}": {error.strerror or error}.') from None
    except UnicodeDecodeError as error:
        where = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f'"{path}" is not UTF-8 at byte {error.start}, in line {where}. Convert it first.'
        ) from None
    records = []
    # Only line feeds part rows: str.splitlines would cut texts at U+2028 too.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f'"{path}" line {number}'
        try:
            records.append((place, strict_json(line)))
        except ValueError as error:
            raise UsageError(f"{place} is not JSON that can be read: {error}.") from None
    if not records:
        raise UsageError(f'"{path}" has no rows: there is nothing to answer. Give one a line.')
    return rows_from(records, keys)


def rows_from(records: Iterable[tuple[str, Any]], keys: Sequence[str] = ()) -> tuple[InputRow, ...]:
    """Rows from (place, data) pairs, as ``read_rows`` has them from lines."""
    rows = tuple(
        _row(place, number, record, keys) for number, (place, record) in enumerate(records)
    )
    seen: dict[str | int, str] = {}
    for row in rows:
        if row.id in seen:
            raise UsageError(
                f"{row.place} has the id {shown(row.id)} of {seen[row.id]}. Ids tell rows apart on resuming."
            )
        seen[row.id] = row.place
    return rows


def _row(place: str, number: int, record: Any, keys: Sequence[str]) -> InputRow:
    if isinstance(record, str):
        record = {"prompt": record}
    if not isinstance(record, Mapping):
        raise UsageError(
            f'{place} is {shown(record)}; a row is a text, or an object with "prompt", "messages" or "prompts".'
        )
    _check_spelling(place, record, keys)
    row_id = record.get("id", number)
    if not isinstance(row_id, (str, int)) or isinstance(row_id, bool):
        raise UsageError(
            f'{place} has the "id" {shown(row_id)}; it must be text or a whole number.'
        )
    try:
        check_whole(str(row_id))
    except ValueError as error:
        raise UsageError(f'{place} has an "id" that cannot be kept: {error}.') from None
    read = ("id", *PROMPT_KEYS, *_OPTIONS)
    return InputRow(
        row_id,
        _prompt(place, record),
        _options(place, record),
        {key: value for key, value in record.items() if key not in read},
        place,
    )


def _check_spelling(place: str, record: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse a key that is almost one that the row could have and has not."""
    known = ("id", *PROMPT_KEYS, *_OPTIONS, *keys)
    # Too short to tell a slip from a key of somebody's own, "id" is not looked for.
    wanted = {*_OPTIONS, *keys} - record.keys()
    if not record.keys() & set(PROMPT_KEYS):
        wanted.update(PROMPT_KEYS)
    for key in (str(key) for key in record if key not in known):
        near = difflib.get_close_matches(key.lower(), sorted({*wanted, *_FOREIGN}), 1, cutoff=0.8)
        if near:
            hint = did_you_mean(key, {name: f'"{name}"' for name in wanted})
            raise UsageError(
                f'{place} has the key "{key}", which means nothing here. {hint} If it is something of '
                "your own, give it another name."
            )


def _prompt(place: str, record: Mapping[str, Any]) -> Prompt:
    prompt, messages, own = (record.get(key) for key in PROMPT_KEYS)
    if (prompt is not None and messages is not None) or (prompt, messages, own) == (None,) * 3:
        raise UsageError(
            f'{place} must have either a "prompt" or "messages", or "prompts" for all sources.'
        )
    shared: OwnPrompt | None = None
    if prompt is not None:
        shared = _text(place, "prompt", prompt)
    elif messages is not None:
        shared = _messages(place, "messages", messages)
    if own is None:
        return shared or ""
    if not isinstance(own, Mapping) or not own:
        raise UsageError(
            f'{place} has the "prompts" {shown(own)}; they map names of sources to texts or messages.'
        )
    if shared is not None and EVERYONE_ELSE in own:
        raise UsageError(
            f'{place} has two prompts for the sources it does not name: one under "{EVERYONE_ELSE}" in '
            '"prompts", and one beside them. Leave one out.'
        )
    prompts = {str(name): _own_prompt(place, f"prompts {name}", own[name]) for name in own}
    return prompts if shared is None else {EVERYONE_ELSE: shared, **prompts}


def _own_prompt(place: str, key: str, value: Any) -> OwnPrompt:
    return _text(place, key, value) if isinstance(value, str) else _messages(place, key, value)


def _text(place: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f'{place} has the "{key}" {shown(value)}; it must be text, not empty.')
    return value


def _messages(place: str, key: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UsageError(f'{place} has no list of chat messages in "{key}".')
    return [_message(place, message) for message in value]


def _message(place: str, message: Any) -> Message:
    try:
        return checked_message(message, "The message")
    except PromptError as error:
        raise UsageError(f"{place}: {error}") from None


def _options(place: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request that the row gives; null is as good as none."""
    options = {key: record[key] for key in _OPTIONS if record.get(key) is not None}
    for key, value in options.items():
        try:
            _OPTIONS[key].check_value(value)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None
    return options
