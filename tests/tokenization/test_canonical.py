"""Extending an encoding piece by piece gives the ids of encoding the whole at once."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.testing import toy_source
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.canonical import (
    WINDOW,
    Canonical,
    common_length,
    extend,
)
from tests.strategies import long_texts, splits
from tests.tokenizers_by_hand import (
    ACROSS_WORDS,
    FAR_ACROSS_WORDS,
    WITHOUT_WORDS,
    Merge,
    MergingTokenizer,
)

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TRAINING = ("Tom has 3 apples.\n\nHe eats 1,000 apples.\n    The end  of   it 0000.",)


@lru_cache
def tokenizer(family: str) -> Tokenizer:
    return toy_source(family, TRAINING, family=family).tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@given(pieces=splits(long_texts))
@example(pieces=["0" * 150, "1" * 400, " x"])
@example(pieces=["\u65e5\u672c" * 100, "\u8a9e" * 200])
@example(pieces=["a \u0301b" * 60, "\u0301 <end> "])
def test_incremental_equals_whole(family: str, pieces: list[str]) -> None:
    canonical, text = Canonical(), ""
    for piece in pieces:
        canonical = extend(canonical, piece, tokenizer(family))
        text += piece
        assert canonical.ids == tokenizer(family).encode(text)
        assert text.endswith(canonical.tail)
        assert canonical.num_settled <= len(canonical.ids)


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize(
    ("merges", "text"),
    [
        # Every other word start lies inside a token, and so does every other letter's end.
        (ACROSS_WORDS, "ab ta ab t ab ta"),
        (ACROSS_WORDS, "b ta"),
        (FAR_ACROSS_WORDS, "ab 11111111b 1111 "),
        (WITHOUT_WORDS, "ab"),
        (WITHOUT_WORDS, "aabb"),
    ],
)
def test_tokens_that_reach_over_a_cut(merges: tuple[Merge, ...], text: str, phase: int) -> None:
    tokenizer, whole = MergingTokenizer(merges), (text * 200)[phase : phase + 400]
    canonical = Canonical()
    for end in range(0, len(whole), 3):
        canonical = extend(canonical, whole[end : end + 3], tokenizer)
        assert canonical.ids == tokenizer.encode(whole[: end + 3])
    if (merges, text) != (ACROSS_WORDS, "b ta"):
        assert canonical.num_settled > 0  # it did settle, where a cut splits nothing


@given(
    st.sampled_from([ACROSS_WORDS, FAR_ACROSS_WORDS, WITHOUT_WORDS]),
    st.lists(st.sampled_from(["ab", " ta", "b ", "t", " 1111", "1111 ", "a", " b"]), max_size=150),
)
def test_whatever_the_merges(merges: tuple[Merge, ...], pieces: list[str]) -> None:
    tokenizer, canonical, text = MergingTokenizer(merges), Canonical(), ""
    for piece in pieces:
        canonical = extend(canonical, piece, tokenizer)
        text += piece
        assert canonical.ids == tokenizer.encode(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_settled(family: str) -> None:
    canonical = Canonical()
    for word in range(200):
        canonical = extend(canonical, f" word{word}", tokenizer(family))
    assert len(canonical.tail) <= 2 * WINDOW + 16


@given(
    st.sampled_from(FAMILIES),
    splits(long_texts).filter(lambda pieces: len(pieces) > 1),
)
def test_common_length_is_the_longest_common_prefix(family: str, pieces: list[str]) -> None:
    left = Canonical()
    for piece in pieces[:-1]:
        left = extend(left, piece, tokenizer(family))
    right = extend(left, pieces[-1], tokenizer(family))
    shared = common_length(left, right)
    assert left.ids[:shared] == right.ids[:shared]
    assert shared in (len(left.ids), len(right.ids)) or left.ids[shared] != right.ids[shared]


def test_common_length_where_more_is_settled_by_now() -> None:
    """What changed lies before what the longer text has settled."""
    tokenizer = MergingTokenizer(ACROSS_WORDS)
    left = extend(Canonical(), "ab t", tokenizer)
    right = extend(left, "a" + " ab" * 100, tokenizer)
    assert right.num_settled > len(left.ids)
    assert left.ids[0] == right.ids[0]
    assert left.ids[1] != right.ids[1]
    assert common_length(left, right) == 1
