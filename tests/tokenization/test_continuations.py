"""Kinds of continuations: few for a tokenizer, and enough to find every beginning."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coolfusion.testing.toys import toy_tokenizer
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.continuations import beginnings, examples, kinds_of
from coolfusion.tokenization.covers import Covering
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.covers_by_hand import missing
from tests.odd_tokenizers import ODD, TEXTS
from tests.strategies import FAMILIES, FRAGMENTS
from tests.tokenizers_by_hand import MergingTokenizer

EXACT = ("added-byte_bpe", "added-sentencepiece_bpe", "added-unigram", "no-0x0b", "prefixed")
texts = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from(examples())), min_size=1, max_size=4
)


@lru_cache
def loaded(name: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(ODD[name]() if name in ODD else toy_tokenizer(TEXTS, family=name))


@lru_cache
def covering_of(name: str) -> tuple[Covering, int]:
    size = 1 + max(i for i in range(1_000) if loaded(name).piece(i) is not None)
    return Covering(loaded(name), size), size


@pytest.mark.parametrize("name", [*FAMILIES, *EXACT])
@settings(max_examples=40)
@given(parts=texts)
@example(parts=["  ", "\u65e5"])
@example(parts=["12 ", "word", "T"])
@example(parts=["   ", "\U0001f44d", "   ", "x"])
def test_every_beginning_is_a_cover(name: str, parts: list[str]) -> None:
    own, text = loaded(name), "".join(parts)
    covering, size = covering_of(name)
    if b"".join(own.piece(i) or b"" for i in own.encode(text)) == text.encode():
        assert missing(own, covering, text, np.full(size, -np.log(size))) == []


@pytest.mark.parametrize(
    ("name", "most"), [("byte_bpe", 6), ("sentencepiece_bpe", 1), ("bytes", 1), ("characters", 1)]
)
def test_kinds_are_few(name: str, most: int) -> None:
    """As many as the pre-tokenizer tells apart; without one a single kind."""
    kinds = kinds_of(loaded(name), range(256))
    assert len(kinds) <= most
    assert sum(map(len, kinds)) > 100
    for kind in kinds:
        assert len({text.encode()[0] for text in kind}) == len(kind)


@pytest.mark.parametrize("name", FAMILIES)
@given(text=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join))
def test_an_example_of_each_kind_stands_for_all(name: str, text: str) -> None:
    """The slow twin tries every example and keeps what ends where the text does."""
    own = loaded(name)
    if b"".join(own.piece(i) or b"" for i in own.encode(text)) != text.encode():
        return
    canonical = extend(Canonical(), text, own)
    found = set(beginnings(canonical, own, kinds_of_cached(name)))
    size = len(text.encode())
    for more in examples()[::7]:
        ids, total = own.encode(text + more), 0
        for num, token in enumerate(ids):
            if total == size:
                assert ids[:num] in found
            total += len(own.piece(token) or b"")


@lru_cache
def kinds_of_cached(name: str) -> tuple[tuple[str, ...], ...]:
    return kinds_of(loaded(name), range(256))


def test_a_tokenizer_that_says_nothing_is_tried_with_all_categories() -> None:
    """And only with bytes that it has tokens for."""
    kinds = kinds_of(MergingTokenizer([]), b"abt1' ")
    assert {"a", "t", "1", "11", " ", "'t"} <= {text for kind in kinds for text in kind}
    assert all(set(text) <= set("abt1' ") for kind in kinds for text in kind)
