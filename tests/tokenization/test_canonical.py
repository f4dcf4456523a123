"""Extending an encoding piece by piece gives the ids of encoding the whole at once."""

from __future__ import annotations

import os
import random
from functools import lru_cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.testing import toy_source
from coolfusion.tokenization.base import Settled, Tokenizer
from coolfusion.tokenization.canonical import Canonical, common_length, extend
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.strategies import long_texts, splits
from tests.tokenization.kinds_of_text import KINDS, text_of
from tests.tokenizers_by_hand import (
    ACROSS_WORDS,
    BY_HAND,
    FAR_ACROSS_WORDS,
    WITHOUT_WORDS,
    Merge,
    MergingTokenizer,
    made_by_hand,
)

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TRAINING = (
    "Tom has 3 apples.\n\nHe eats 1,000 apples.\n    The end  of   it 0000.",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002 ####====----\n\n",
)
REAL = Path(os.environ.get("COOLFUSION_REAL", "/does-not-exist")) / "tokenizers"
REAL_NAMES = sorted(path.name for path in REAL.iterdir()) if REAL.is_dir() else []
EVERY = (*FAMILIES, *BY_HAND, *REAL_NAMES)


@lru_cache
def tokenizer(name: str) -> Tokenizer:
    if name in FAMILIES:
        return toy_source(name, TRAINING, family=name).tokenizer
    if name in BY_HAND:
        return made_by_hand(name)
    raw = tokenizers.Tokenizer.from_file(str(REAL / name / "tokenizer.json"))
    return HuggingFaceTokenizer(raw, lossy_ok=True)


class Counting:
    """Counts the characters that a tokenizer is given to encode."""

    def __init__(self, inner: Tokenizer) -> None:
        self._inner = inner
        self.num_characters = 0
        self.end_ids = inner.end_ids
        self.piece, self.encode_prompt = inner.piece, inner.encode_prompt

    def encode(self, text: str) -> tuple[int, ...]:
        self.num_characters += len(text)
        return self._inner.encode(text)

    def settled(self, lead: str, text: str) -> list[Settled]:
        return self._inner.settled(lead, text)


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


@pytest.mark.parametrize("name", EVERY)
def test_all_kinds_of_text_in_pieces_of_any_size(name: str) -> None:
    noise = random.Random(name)
    for kind in _some_kinds(name):
        text, canonical, end = text_of(kind, 220), Canonical(), 0
        while end < len(text):
            begin, end = end, end + noise.choice([1, 2, 3, 5, 8, 20, 70])
            canonical = extend(canonical, text[begin:end], tokenizer(name))
            assert canonical.ids == tokenizer(name).encode(text[:end]), (kind, end)


# Every character changes the encoding from its beginning on: the number of digits says where the
# first group ends, a mark may move before all marks, and of two pieces the shorter one comes first.
CHANGING = {
    "digits from the right": ("long number", "run of '0'"),
    "digits to a word edge": ("long number", "run of '0'"),
    "unigram": tuple(f"run of {c!r}" for c in "#=-.0\n"),
    # A name may take all white space on its left.
    "long names": tuple(f"run of {c!r}" for c in " \n\t"),
    "t5-small": tuple(f"run of {c!r}" for c in "#-.*_0!"),
    "sp-ja-unigram-8000": tuple(f"run of {c!r}" for c in " .0"),
    "long pieces": ("run of '#'", "run of '\u3042'"),
}


@pytest.mark.parametrize("name", EVERY)
def test_work_does_not_grow_with_the_text(name: str) -> None:
    longest = max((len(piece) for piece in _pieces(name)), default=1)
    for kind in set(_some_kinds(name)).difference(CHANGING.get(name, ())):
        for size in (500, 3_000):
            counting = Counting(tokenizer(name))
            text = text_of(kind, size + 40)
            canonical = extend(Canonical(), text[:size], counting)
            # A text may end where nothing is settled, as between two marks of one letter.
            for end in range(size, size + 40, 4):
                canonical = extend(canonical, text[end : end + 4], counting)
            for piece in ("a", text_of(kind, size + 44)[-4:], text_of(kind, 7)):
                counting.num_characters = 0
                canonical = extend(canonical, piece, counting)
                # Twice the longest token may be left, and is encoded a few times.
                assert counting.num_characters <= 10 * longest + 400, (kind, size)


def _pieces(name: str) -> list[bytes]:
    given = tokenizer(name)
    return [given.piece(i) or b"" for i in range(300_000) if given.piece(i)]


def _some_kinds(name: str) -> tuple[str, ...]:
    """A sixth of the kinds, others for each tokenizer; all of them where time does not matter."""
    return KINDS if "COOLFUSION_THOROUGH" in os.environ else KINDS[EVERY.index(name) % 6 :: 6]


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


def test_nothing_is_settled_without_knowledge_of_the_tokenizer() -> None:
    canonical = Canonical()
    for _ in range(50):
        canonical = extend(canonical, "ab ab ", MergingTokenizer(WITHOUT_WORDS))
    assert (canonical.num_settled, canonical.tail) == (0, "ab ab " * 50)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_settled(family: str) -> None:
    canonical = Canonical()
    for word in range(200):
        canonical = extend(canonical, f" word{word}", tokenizer(family))
    assert len(canonical.tail) <= 64


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
    whole = tokenizer("digits from the right")
    left = extend(Canonical(), "a1100", whole)
    right = extend(left, "1" + " ab" * 100, whole)
    assert right.num_settled > len(left.ids)
    assert left.ids[0] == right.ids[0]
    assert left.ids[1] != right.ids[1]
    assert common_length(left, right) == 1
