"""Ratified cuts are safe for every tokenizer and survive whatever is written next."""

from __future__ import annotations

from functools import lru_cache

from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.testing import toy_source
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.boundaries import words
from coolfusion.tokenization.canonical import splits
from tests.strategies import texts
from tests.tokenizers_by_hand import ACROSS_WORDS, FAR_ACROSS_WORDS, MergingTokenizer

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TRAINING = ("Tom has 3 apples.\n\nHe eats 1,000 apples.\n    The end  of   it 0000.",)


@lru_cache
def tokenizer(family: str) -> Tokenizer:
    return toy_source(family, TRAINING, family=family).tokenizer


families = st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=3, unique=True)


@given(families, texts)
@example(list(FAMILIES), "end.\n\nNext 0000 1  0\r\nx")
@example(list(FAMILIES), "a\u0301 <|im_end|> \u0301b")
def test_cuts_ascend_and_split_every_encoding(chosen: list[str], text: str) -> None:
    tokenizers = [tokenizer(family) for family in chosen]
    cuts = list(ratified_cuts(text, words, tokenizers))
    assert cuts == sorted(set(cuts))
    for cut in cuts:
        assert 0 < cut < len(text)
        left, right = text[max(0, cut - 64) : cut], text[cut : cut + 32]
        assert all(splits(left, right, each) for each in tokenizers)


@given(families, texts, texts)
@example(list(FAMILIES), "one.\n", "\n two")
@example(list(FAMILIES), "a 00", "00 b")
@example(list(FAMILIES), "a  e", "\u0301 b")
def test_a_cut_survives_any_suffix(chosen: list[str], text: str, suffix: str) -> None:
    tokenizers = [tokenizer(family) for family in chosen]
    before = list(ratified_cuts(text, spaces, tokenizers))
    after = list(ratified_cuts(text + suffix, spaces, tokenizers))
    assert set(before) <= set(after)


# Word starts at white space: the part of the rule that looks at one place only. Unicode
# segmentation of unspaced scripts may change its mind when more text arrives.
spaces = type(words)(
    "spaces", lambda text: [cut for cut in words.propose(text) if text[cut].isspace()]
)


def test_a_token_that_only_more_text_completes() -> None:
    """``b ta`` is one token, ``b t`` is not, and the far one takes ten characters to tell."""
    near, far = MergingTokenizer(ACROSS_WORDS), MergingTokenizer(FAR_ACROSS_WORDS)
    assert list(ratified_cuts("ab ta ab", words, [near])) == [5]
    assert list(ratified_cuts("ab tb ab", words, [near])) == [2, 5]
    assert list(ratified_cuts("ab 11111111", words, [far])) == []
    assert list(ratified_cuts("ab 1111111", words, [far])) == [2]
    assert list(ratified_cuts("ab ta ab", words, [near, far])) == [5]


def test_what_stands_before_a_text_counts() -> None:
    """After ``a`` the ``b`` is taken already; alone it takes the space."""
    tokenizer = MergingTokenizer([(b"a", b"b"), (b"b", b" ")])
    assert list(ratified_cuts("b t", words, [tokenizer])) == []
    assert list(ratified_cuts("b t", words, [tokenizer], "a")) == [1]


@given(texts)
def test_more_tokenizers_never_ratify_more(text: str) -> None:
    tokenizers = [tokenizer(family) for family in FAMILIES]
    everyone = set(ratified_cuts(text, words, tokenizers))
    alone = [set(ratified_cuts(text, words, [each])) for each in tokenizers]
    assert everyone == set.intersection(*alone)
    assert set(ratified_cuts(text, words, tokenizers[::-1])) == everyone
