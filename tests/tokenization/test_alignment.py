"""Ratified cuts are safe for every tokenizer and survive whatever is written next."""

from __future__ import annotations

import random
from functools import lru_cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.testing import toy_source
from coolfusion.tokenization.alignment import is_ratified, ratified_after, ratified_cuts
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.boundaries import Boundary, words
from coolfusion.tokenization.canonical import Canonical, extend, splits
from tests.strategies import texts
from tests.tokenization.kinds_of_text import KINDS, text_of
from tests.tokenization.test_canonical import EVERY, Counting
from tests.tokenization.test_canonical import tokenizer as every_tokenizer
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
        assert all(splits(text[:cut], text[cut:], each) for each in tokenizers)


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


@pytest.mark.parametrize("name", EVERY)
def test_a_cut_is_ratified_exactly_where_the_whole_text_splits(name: str) -> None:
    """The whole text, and no window of it, says so: runs are longer than any window."""
    own, noise = every_tokenizer(name), random.Random(name)
    texts = [
        "#" * 65 + "\nText",
        "-" * 90 + " - x",
        "\u65e5" * 66 + "\u672c",
        "x" + " " * 130 + "y",
    ]
    texts += [
        text_of(noise.choice(KINDS), noise.randint(1, 90)) + text_of("runs", 90) for _ in range(2)
    ]
    for text in texts:
        cuts = sorted([*noise.sample(range(1, len(text)), min(len(text) - 1, 12)), len(text) - 5])
        some = Boundary("some", lambda _, cuts=cuts: sorted(set(cuts)))
        want = [cut for cut in some.propose(text) if splits(text[:cut], text[cut:], own)]
        assert list(ratified_cuts(text, some, [own])) == want
        late = Boundary("late", lambda _, cuts=cuts: sorted({c - 7 for c in cuts if c > 7})[-9:])
        after = {7 + cut for cut in ratified_cuts(text[7:], late, [own], text[:7])}
        assert after == set(want) & {7 + cut for cut in late.propose(text)}
        for cut in cuts[::7]:
            assert is_ratified(text, cut, [own]) == (cut in want)


def test_what_is_settled_before_a_cut_is_not_encoded_again() -> None:
    counting = Counting(every_tokenizer("long runs"))
    before = extend(Canonical(), text_of("JSON lines", 3000), counting)
    counting.num_characters = 0
    cuts = ratified_after([before], ' {"id": 1} and more ' + "words " * 300, words, [counting])
    assert next(cuts) > 0
    assert counting.num_characters < 600


@given(texts)
def test_more_tokenizers_never_ratify_more(text: str) -> None:
    tokenizers = [tokenizer(family) for family in FAMILIES]
    everyone = set(ratified_cuts(text, words, tokenizers))
    alone = [set(ratified_cuts(text, words, [each])) for each in tokenizers]
    assert everyone == set.intersection(*alone)
    assert set(ratified_cuts(text, words, tokenizers[::-1])) == everyone
