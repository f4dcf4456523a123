"""A real model alone says what its own ``generate`` says, also past its sliding window."""

from __future__ import annotations

import pytest

from coolfusion import Request, SegmentDecoder
from tests.real.pair import (
    NAMES,
    PROMPTS,
    WINDOW,
    generated,
    long_prompt,
    needs_pair,
    source,
)

pytestmark = needs_pair
nightly = pytest.mark.nightly


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kind", ["letter", *(pytest.param(kind, marks=nightly) for kind in PROMPTS if kind != "letter")]
)
def test_it_is_its_own_generate(name: str, kind: str) -> None:
    found = SegmentDecoder([source(name)]).generate(PROMPTS[kind], Request(max_new_tokens=32))
    assert found.text == generated(source(name), PROMPTS[kind], 32) != ""


@nightly
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_lines", [24, 29])
def test_it_is_its_own_generate_past_the_window(name: str, num_lines: int) -> None:
    """One response crosses the window of Gemma's sliding layers; one prompt is beyond it."""
    prompt = long_prompt(num_lines)
    length = len(source(name).tokenizer.encode_prompt(prompt))
    assert WINDOW - 24 < length < WINDOW if num_lines == 24 else length > 600
    found = SegmentDecoder([source(name)]).generate(prompt, Request(max_new_tokens=24))
    assert found.text == generated(source(name), prompt, 24) != ""


def test_it_runs_with_a_cache() -> None:
    assert [source(name).backend.strategy for name in NAMES] == ["packed", "packed"]
