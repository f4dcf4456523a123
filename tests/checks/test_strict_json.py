"""JSON that Python would take and others would not, or at which it breaks off, is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.checks.strict_json import strict_json
from coolfusion.documents import MAX_DEPTH

WRONG = {
    "[" * 100_000: "nested",
    '{"a":' * 100_000: "nested",
    "[" * 990 + "]" * 990: "nested",
    "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2): "nested",
    "1" * 5000: "5000 digits",
    '{"a": -' + "1" * 5000 + "}": "5001 digits",
    "[1e400]": "1e400 is too great",
    "-1e999": "too great",
    "NaN": "NaN is no number",
    "[-Infinity]": "-Infinity is no number",
    '{"a": 1, "a": 1}': "the key 'a' twice",
    '[{"b": {"x": 1, "y": 2, "x": 3}}]': "the key 'x' twice",
    '{"\\ud800": 1}': "half a character",
    '[{"a\\udfff": 1}]': "half a character",
    "": "Expecting value",
    '"\x00"': "control character",
    "{'a': 1}": "Expecting property name",
    "[1] [2]": "Extra data",
    "\ufeff1": "BOM",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=WRONG[text].replace("[", "\\[")):
        strict_json(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**900), 10**900)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_all_other_json_comes_back(value: Any, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    assert strict_json(text) == json.loads(text) == value


def test_as_deep_as_is_said() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert strict_json(text) == json.loads(text)
