"""The n-gram backend against probabilities worked out by hand."""

from __future__ import annotations

import math

import pytest

from coolfusion.backends.base import Query
from coolfusion.backends.ngram import NgramBackend
from coolfusion.errors import ContextLengthError, SourceError, UsageError


def test_bigram_by_hand() -> None:
    # After 0 the texts say 1 twice and 2 once; with strength 1 the unigram is mixed in.
    backend = NgramBackend([[0, 1, 0, 1, 0, 2]], vocab_size=3, order=2, strength=1.0)
    unigram_of_1 = (2 + 1 / 3) / (6 + 1)
    (scores,) = backend.score([Query((0,), (1,), watch=(1, 2))])
    assert scores.log_probs[0] == pytest.approx(math.log((2 + unigram_of_1) / (3 + 1)))
    assert scores.picks[0] == 1
    unigram_of_2 = (1 + 1 / 3) / 7
    both = (2 + unigram_of_1 + 1 + unigram_of_2) / 4
    assert scores.watched[0] == pytest.approx(math.log(both))


def test_an_unseen_context_falls_back_on_shorter_ones() -> None:
    backend = NgramBackend([[0, 1]], vocab_size=3, order=3, strength=0.5)
    seen = backend.score([Query((2, 2), (1,))])[0].log_probs
    assert seen == backend.score([Query((2,), (1,))])[0].log_probs


def test_errors() -> None:
    with pytest.raises(UsageError, match="order"):
        NgramBackend([], vocab_size=3, order=0)
    backend = NgramBackend([[0, 1]], vocab_size=3, context_length=2)
    with pytest.raises(ContextLengthError, match="3 tokens"):
        backend.score([Query((0, 1), (1,))])
    with pytest.raises(SourceError, match="vocabulary of 3"):
        backend.score([Query((3,))])
