"""What can come next, by hand: other ids lose their share to those that can."""

from __future__ import annotations

import numpy as np
import pytest

from coolfusion.decoding.mixture.vocabulary import Vocabulary
from coolfusion.errors import SourceError

# Two ends, a control token, letters, and the first and the second byte of an accented one.
PIECES = [None, None, None, b"a", b"b", b"\xc3", b"\xa9"]
A, B, FIRST, SECOND = 3, 4, 5, 6


class Pieces:
    """A tokenizer of which only the bytes of its tokens are asked for."""

    end_ids = frozenset({0, 1})

    def piece(self, token_id: int) -> bytes | None:
        return PIECES[token_id]


def outcomes(probs: list[float], beginning: bytes = b"") -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.exp(Vocabulary(Pieces(), len(PIECES)).outcomes(np.log(probs), beginning))


def test_control_tokens_and_halves_of_characters_cannot_come_next() -> None:
    found = outcomes([0.1, 0.2, 0.25, 0.15, 0.05, 0.05, 0.2])
    # Left are ends of 0.3 together, "a", "b" and the first byte: 0.55 in all.
    np.testing.assert_allclose(found, np.array([0.3, 0, 0, 0.15, 0.05, 0.05, 0]) / 0.55)


def test_within_a_character_only_its_rest_can_come_next() -> None:
    found = outcomes([0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.2], b"\xc3")
    np.testing.assert_allclose(found, np.array([0.2, 0, 0, 0, 0, 0, 0.2]) / 0.4)


def test_ids_that_the_tokenizer_does_not_know_lose_their_share() -> None:
    found = outcomes([0.1, 0.1, 0.0, 0.2, 0.2, 0.2, 0.0, 0.1, 0.1])
    np.testing.assert_allclose(found, np.array([0.2, 0, 0, 0.2, 0.2, 0.2, 0]) / 0.8)


def test_what_is_left_may_be_next_to_nothing() -> None:
    found = outcomes([0.0, 0.0, 1.0, 3e-30, 1e-30, 0.0, 0.0])
    np.testing.assert_allclose(found[[A, B]], [0.75, 0.25])
    with pytest.raises(SourceError, match="control tokens"):
        outcomes([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(SourceError, match="no UTF-8"):
        outcomes([0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0], b"\xc3")
