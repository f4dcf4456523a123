"""Boundaries keep their laws on any text, and coarse ones propose fewer of the same cuts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.testing import check_boundary
from coolfusion.tokenization.boundaries import (
    Boundary,
    boundary_named,
    lines,
    phrases,
    sentences,
    whole_response,
    words,
)
from tests.strategies import texts

BUILT_IN = (words, phrases(2), lines, sentences, whole_response)


@pytest.mark.parametrize("boundary", BUILT_IN, ids=lambda boundary: boundary.name)
@given(text=texts)
@example(text="e\u0301 \u0301x")
@example(text="\u65e5 \u672c\u200d\u8a9e 12\uff11\uff12")
def test_laws(boundary: Boundary, text: str) -> None:
    check_boundary(boundary, [text])


@given(texts, st.integers(1, 4))
def test_coarser_rules_propose_a_part_of_the_words(text: str, num_words: int) -> None:
    fine = list(words.propose(text))
    for coarse in (phrases(num_words), lines, sentences, whole_response):
        assert set(coarse.propose(text)) <= set(fine)
    assert list(phrases(num_words).propose(text)) == fine[num_words - 1 :: num_words]


@pytest.mark.parametrize("boundary", BUILT_IN, ids=lambda boundary: boundary.name)
def test_names_lead_back(boundary: Boundary) -> None:
    text = "One two.\n\nThree four five.\nSix"
    assert list(boundary_named(boundary.name).propose(text)) == list(boundary.propose(text))


def test_words_by_hand() -> None:
    assert list(words.propose("a bc  d\n\ne ")) == [1, 4, 7]
    assert list(lines.propose("a b\nc d")) == [3]
    assert list(sentences.propose('He said "no." Then left.')) == [13]
