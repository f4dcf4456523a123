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


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("10\u00a0000 km", [6]),  # a no-break space holds a number together
        ("\u65e5\uff11\u00b2\u672c", [1, 3]),  # and a digit stays with the next
        ("\u65e5\u672c x", [1, 2]),
        ("a ", []),
        (" a", []),
        ("\u65e5 ", []),
    ],
)
def test_words_that_are_hard_to_tell(text: str, cuts: list[int]) -> None:
    assert list(words.propose(text)) == cuts


def test_lines_and_sentences_by_hand() -> None:
    assert list(lines.propose("a  \n b c")) == [1]  # the break need not come first
    assert list(sentences.propose("a b\nc d")) == []  # one break ends no sentence
    assert list(sentences.propose("a b\n\nc d")) == [3]
    assert list(sentences.propose("It is 3. No! (Yes?) x")) == [8, 12, 19]
    assert list(phrases(2).propose("a b c d e")) == [3, 7]
    assert list(phrases(3).propose("a b c d e")) == [5]


def test_words_by_hand() -> None:
    assert list(words.propose("a bc  d\n\ne ")) == [1, 4, 7]
    assert list(lines.propose("a b\nc d")) == [3]
    assert list(sentences.propose('He said "no." Then left.')) == [13]
