"""JSON from outside, as strict as it can be: what Python's reader takes and others would not is refused.

Python reads ``NaN``, takes ``1e400`` for infinity and keeps the last of two equal keys. It lets half a
character through in a key, and raises other errors at 100,000 brackets or 5,000 digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from coolfusion.documents import MAX_DEPTH, check_depth

MAX_DIGITS = 1000


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises ``ValueError`` that says what is wrong in one clause."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    check_depth(value)
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    for key in found:
        check_whole(key)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits, and {MAX_DIGITS} are too many")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too great")
    return number


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON, where all are finite")


def check_whole(text: str) -> None:
    """Raise ``ValueError`` for a text with half a character, which no file and no screen can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"it has half a character, \\u{ord(half):04x}, which is a surrogate without its other half, "
            f"in {text!r}"
        ) from None
