"""Toy tokenizers of every family keep the laws of the seam on hostile texts."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import example, given

from coolfusion.testing import check_tokenizer, toy_source
from coolfusion.tokenization.base import Tokenizer, pieces_text
from tests.strategies import long_texts, splits, texts

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TRAINING = ("Tom has 3 apples.\n\nHe eats 1,000 apples.\n    The end  of   it 0000.",)
MARKS = "\u2581"  # SentencePiece's own sign for a space, which it cannot tell from one


@lru_cache
def tokenizer(family: str) -> Tokenizer:
    return toy_source(family, TRAINING, family=family).tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts)
@example(text="<end> <unk> <0x41></s>")
@example(text=" ")
def test_laws(family: str, text: str) -> None:
    check_tokenizer(tokenizer(family), [text.replace(MARKS, "")])


@pytest.mark.parametrize("family", FAMILIES)
@given(text=long_texts)
def test_raw_prompts_hold_their_text(family: str, text: str) -> None:
    prompt = "x" + text.replace(MARKS, "").replace("<", "")
    ids = tokenizer(family).encode_prompt(prompt)
    got = pieces_text(tokenizer(family), ids)
    assert got.removeprefix(" ") == prompt


@pytest.mark.parametrize("family", FAMILIES)
@given(pieces=splits())
def test_parts_encoded_alone_still_join_to_the_text(family: str, pieces: list[str]) -> None:
    parts = [piece.replace(MARKS, "") for piece in pieces]
    ids = [token for part in parts for token in tokenizer(family).encode(part)]
    assert pieces_text(tokenizer(family), ids) == "".join(parts)
