"""Covers of a text give the sums that brute force gives, whatever is learnt when."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coolfusion.backends.base import Query
from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.source import Source
from coolfusion.testing import toy_source
from coolfusion.tokenization.covers import END, Cover, Covering
from tests.covers_by_hand import ByHand, missing
from tests.tokenizers_by_hand import ACROSS_WORDS, FAR_ACROSS_WORDS, Merge, MergingTokenizer

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TEXTS = (
    "the cat sat on the mat. don't they're 1234 12345 \n\n  x   y",
    "the dog said: hello, hello world! 100,000 na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f44d",
    "a cat and a dog; it's 99 bottles  of beer\n\tindent",
)


@lru_cache
def toy(family: str) -> Source:
    return toy_source(family, TEXTS, family=family, vocab_size=330)


def learnt(source: Source, covering: Covering, cover: Cover, prompt: str) -> Cover:
    prefix = source.tokenizer.encode_prompt(prompt)
    backend: NgramBackend = source.backend
    answers = backend.distributions([Query(prefix + ids) for ids in cover.unknown])
    rows = dict(zip(cover.unknown, (answer.log_probs[0] for answer in answers), strict=True))
    return covering.learn(cover, rows)


@lru_cache
def covering_of(source: Source) -> Covering:
    return Covering(source.tokenizer, source.backend.vocab_size)


texts = st.text(st.sampled_from("the cat'1\n \u00e9\u65e5\U0001f44d."), min_size=1, max_size=8)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20)
@given(text=texts, asked=st.lists(st.booleans(), min_size=40, max_size=40))
@example(text="don't x", asked=[False] * 40)
@example(text="  y 12345.", asked=[False, True] * 20)
@example(text="\u00e9\u65e5\U0001f44d", asked=[False] * 40)
def test_sums_are_those_of_brute_force(family: str, text: str, asked: list[bool]) -> None:
    source, covering = toy(family), covering_of(toy(family))
    by_hand = ByHand(source, source.tokenizer.encode_prompt("the cat"))
    cover, data = covering.begin(), b""
    for byte, ask in zip(text.encode(), itertools.cycle(asked), strict=False):
        cover, data = covering.advance(cover, byte), data + bytes([byte])
        known = learnt(source, covering, cover, "the cat")
        assert np.isclose(
            np.exp(covering.log_total(known)), by_hand.mass(data, judged=True), rtol=1e-9, atol=0
        )
        if ask:
            cover = known
        if not known.branches:
            return
    exact = covering.bounds(known)
    assert exact.slack == 0
    assert np.array_equal(exact.lower, exact.upper)
    np.testing.assert_allclose(exact.lower, by_hand.next_bytes(data), rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, asked=st.lists(st.booleans(), min_size=40, max_size=40))
def test_bounds_hold_what_is_learnt_later(family: str, text: str, asked: list[bool]) -> None:
    source, covering = toy(family), covering_of(toy(family))
    cover = covering.begin()
    for byte, ask in zip(text.encode(), itertools.cycle(asked), strict=False):
        known = learnt(source, covering, cover, "a")
        if ask:
            cover = known
        bounds, exact = covering.bounds(cover), covering.bounds(known)
        assert np.all(bounds.lower <= exact.lower + 1e-12)
        assert np.all(exact.lower <= bounds.upper + 1e-12)
        assert np.isclose(exact.lower.sum(), 1.0)
        cover = covering.advance(cover, byte)
        if not cover.branches:
            return


@given(
    merges=st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"t", b"1", b"'", b" ", b"ab", b"11", b"'t"]),
            st.sampled_from([b"a", b"b", b"t", b"1", b" ", b"t1", b"b "]),
        ),
        max_size=5,
        unique_by=lambda pair: pair[0] + pair[1],
    ),
    pattern=st.sampled_from(
        [
            r".",
            r".+",
            r"'t| ?[abt]+'?t?|1{1,2}(?=(?:11)*(?!1))|'| +(?! )| +",
            r"'t| ?[abt]+|1{1,3}|'| +(?!\S)| +",
        ]
    ),
    text=st.text(st.sampled_from("abt1' "), max_size=6),
    written=st.lists(st.integers(1, 9), min_size=1, max_size=12),
)
def test_tokenizers_that_look_ahead(
    merges: list[tuple[bytes, bytes]], pattern: str, text: str, written: list[int]
) -> None:
    """Any vocabulary, any order of merges, parts found by looking ahead."""
    tokenizer = MergingTokenizer(merges, pattern)
    size = len(tokenizer.pieces)
    backend = NgramBackend([[each % size for each in written]], size, order=2)
    source = Source("tiny", tokenizer, backend)
    covering, by_hand = Covering(tokenizer, size), ByHand(source, tokenizer.encode("a"))
    cover = covering.begin()
    for byte in text.encode():
        cover = covering.advance(cover, byte)
    known = learnt(source, covering, cover, "a")
    assert np.isclose(np.exp(covering.log_total(known)), by_hand.mass(text.encode(), judged=True))
    if known.branches:
        np.testing.assert_allclose(
            covering.bounds(known).lower, by_hand.next_bytes(text.encode()), rtol=1e-9
        )


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
def test_conditionals_multiply_to_no_less_than_the_whole(family: str, text: str) -> None:
    """What proves not to be canonical is lost to the sum, and normalised away at every byte."""
    source, covering = toy(family), covering_of(toy(family))
    cover, log_product = learnt(source, covering, covering.begin(), "a"), 0.0
    for byte in text.encode():
        log_product += np.log(covering.bounds(cover).lower[byte])
        cover = learnt(source, covering, covering.advance(cover, byte), "a")
    assert covering.log_total(cover) <= log_product + 1e-9


@given(text=st.text(st.sampled_from("abt1' "), min_size=1, max_size=12))
def test_chain_rule_where_nothing_can_be_lost(text: str) -> None:
    tokenizer = MergingTokenizer([], ".")
    backend = NgramBackend([[1, 2, 3, 1, 2, 0], [4, 5, 6, 0]], len(tokenizer.pieces), order=3)
    source, covering = Source("tiny", tokenizer, backend), Covering(tokenizer, 7)
    (scores,) = backend.score([Query(tokenizer.encode("a"), tokenizer.encode(text))])
    cover, log_product = learnt(source, covering, covering.begin(), "a"), 0.0
    for byte in text.encode():
        log_product += np.log(covering.bounds(cover).lower[byte])
        cover = learnt(source, covering, covering.advance(cover, byte), "a")
    assert np.isclose(log_product, sum(scores.log_probs))
    assert np.isclose(covering.log_total(cover), log_product)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
def test_every_beginning_of_an_encoding_is_a_cover(family: str, text: str) -> None:
    source = toy(family)
    row = np.full(source.backend.vocab_size, -np.log(source.backend.vocab_size))
    assert missing(source.tokenizer, covering_of(source), text, row) == []


@pytest.mark.parametrize("merges", [ACROSS_WORDS, FAR_ACROSS_WORDS])
@settings(max_examples=25)
@given(words=st.lists(st.sampled_from(["ab", " ta", "b ", "t", " 1111", "1111", "a"]), max_size=16))
@example(words=["aab", " t", "ab", " ta"] * 6)
@example(words=["ab 11111111b 1111 11111111"] * 3)
def test_no_encoding_is_settled_too_early(merges: tuple[Merge, ...], words: list[str]) -> None:
    """Tokens that reach over a word's start are seen whole before what they begin with is kept."""
    tokenizer, text = MergingTokenizer(merges), "".join(words)
    covering = Covering(tokenizer, len(tokenizer.pieces))
    row = np.full(len(tokenizer.pieces), -np.log(len(tokenizer.pieces)))
    cover = covering.begin()
    for end, byte in enumerate(text.encode(), 1):
        cover = covering.learn(cover, dict.fromkeys(cover.unknown, row))
        cover = covering.advance(cover, byte)
        assert cover.canonical.ids == tokenizer.encode(text[:end])
        assert cover.branches


def test_a_token_that_only_what_follows_makes_canonical() -> None:
    """``b'`` is a token of ``b't``, which is kept in one part, and not of ``b'``, which is not."""
    tokenizer = MergingTokenizer([(b"b", b"'")], r"[ab]+'t|[ab]+|'|t|1| ")
    assert tokenizer.encode("b'") == (2, 5)
    assert tokenizer.encode("b't") == (7, 3)
    row = np.full(8, -np.log(8))
    assert missing(tokenizer, Covering(tokenizer, 8), "b't", row) == []


def test_a_text_ends_after_its_own_encoding_alone() -> None:
    """Not after the tokens that ``b't`` would begin with."""
    tokenizer = MergingTokenizer([(b"b", b"'")], r"[ab]+'t|[ab]+|'|t|1| ")
    size = len(tokenizer.pieces)
    source = Source("tiny", tokenizer, NgramBackend([[7, 0, 2, 5, 1]], size, order=2))
    covering, by_hand = Covering(tokenizer, size), ByHand(source, tokenizer.encode("a"))
    cover = covering.begin()
    for byte in b"b'":
        cover = covering.advance(cover, byte)
    known = learnt(source, covering, cover, "a")
    assert {branch.ids for branch in known.branches if not branch.depth} == {(2, 5), (7,)}
    np.testing.assert_allclose(covering.bounds(known).lower, by_hand.next_bytes(b"b'"), rtol=1e-9)


def test_nothing_ends_within_a_character() -> None:
    covering = covering_of(toy("bytes"))
    cover = covering.advance(covering.begin(), "\u00e9".encode()[0])
    bounds = covering.bounds(cover)
    assert bounds.slack > 0
    assert bounds.upper[END] == 0
    assert bounds.upper[0x80] > 0
    assert bounds.upper[ord("a")] == 0


def test_memory_does_not_grow_with_the_text() -> None:
    source, covering = toy("byte_bpe"), covering_of(toy("byte_bpe"))
    cover, most = covering.begin(), 0
    for byte in (TEXTS[0] * 8).encode():
        cover = learnt(source, covering, covering.advance(cover, byte), "a")
        kept = sum(len(branch.probs) for branch in cover.branches if branch.probs is not None)
        most = max(most, kept)
        assert len(cover.branches) <= 16
        assert len(cover.canonical.tail) <= 64
    assert most <= 16 * source.backend.vocab_size


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, asked=st.lists(st.booleans(), min_size=40, max_size=40))
def test_what_all_covers_begin_with_scales_nothing(
    family: str, text: str, asked: list[bool]
) -> None:
    """The twin keeps all that its masses depend on, from the first byte."""
    source, covering = toy(family), covering_of(toy(family))
    cover = twin = covering.begin()
    for byte, ask in zip(text.encode(), itertools.cycle(asked), strict=False):
        cover = covering.conditional(covering.advance(cover, byte))
        twin = covering.advance(twin, byte)
        known = learnt(source, covering, cover, "a")
        exact = covering.bounds(learnt(source, covering, twin, "a"))
        np.testing.assert_allclose(covering.bounds(known).lower, exact.lower, rtol=1e-9)
        bounds = covering.bounds(cover)
        assert np.all(bounds.lower <= exact.lower + 1e-12)
        assert np.all(exact.lower <= bounds.upper + 1e-12)
        if ask:
            cover = known
        if not cover.branches:
            return


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_has_to_be_asked_for_long(family: str) -> None:
    """A source without a say for a whole text has no more to catch up with than a few tokens."""
    covering, cover = covering_of(toy(family)), covering_of(toy(family)).begin()
    for byte in (TEXTS[0] * 8).encode():
        cover = covering.conditional(covering.advance(cover, byte))
        assert len(cover.unknown) <= 16
        assert len(cover.waiting) <= 8
