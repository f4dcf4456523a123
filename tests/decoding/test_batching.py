"""How many responses are decoded side by side, by what one source is asked at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coolfusion import Request, SegmentDecoder
from tests.decoding.segments.test_decoder import PROMPTS, toy
from tests.decoding.test_scheduler import Noting


def most_at_once(prompts: list[str], *, max_new_tokens: int = 8, **limits: int) -> int:
    """The most responses that ask the one source at a time; a row asks for one draft."""
    source = toy("one", "bytes", (0, 1, 2, 3, 4))
    noting = Noting(source)
    decoder = SegmentDecoder([replace(source, backend=noting)], speculation=None)
    request = Request(max_new_tokens=max_new_tokens)
    assert len(list(decoder.generate_batch(prompts, request, **limits))) == len(prompts)
    return max(noting.sizes)


@pytest.mark.parametrize("max_rows", [1, 2, 4])
def test_rows_are_limited(max_rows: int) -> None:
    assert most_at_once(list(PROMPTS), max_rows=max_rows) == max_rows


def test_every_row_counts_as_the_widest() -> None:
    """Of 48 and 12 bytes with 8 to come, two rows need 112 tokens, and two short ones 40."""
    long, short = "Tom has 3 apples" * 3, "Tom has 3 ap"
    assert most_at_once([long, short, short], max_tokens=112) == 2
    assert most_at_once([long, short], max_tokens=111) == 1
    assert most_at_once([short, long], max_tokens=111) == 1
    assert most_at_once([short, short], max_tokens=40) == 2
    assert most_at_once([short, short], max_tokens=39) == 1
    assert most_at_once([short, short], max_tokens=41, max_new_tokens=9) == 1
