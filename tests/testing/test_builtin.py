"""Everything built in keeps the laws of its seam."""

from __future__ import annotations

from functools import lru_cache

import pytest

from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.source import Source
from coolfusion.decoding.segments.rerankers import (
    RERANKERS,
    Reranker,
    lead,
    mean_nll,
    mean_perplexity,
    weighted,
    without_outliers,
)
from coolfusion.testing import (
    check_backend,
    check_boundary,
    check_reranker,
    check_tokenizer,
    toy_source,
)
from coolfusion.tokenization.boundaries import (
    Boundary,
    lines,
    phrases,
    sentences,
    whole_response,
    words,
)

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TEXTS = (
    "Tom has 3 apples. He eats 1 apple.\nNow Tom has 2 apples left.",
    "The cat sat on the mat.\n\n    def cat(x):  # 12 345",
)
SHARES = {"one": 1.0, "two": 2.0, "three": 0.5}


@lru_cache
def toy(family: str) -> Source:
    return toy_source("toy", TEXTS, family=family, context_length=40)


@pytest.mark.parametrize("family", FAMILIES)
def test_toy_sources(family: str) -> None:
    check_tokenizer(toy(family).tokenizer)
    check_backend(lambda: toy(family).backend, tolerance=1e-9)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngram_backends(order: int) -> None:
    texts = [[i * i % 11 for i in range(30)], [3, 4, 3, 4]]
    check_backend(lambda: NgramBackend(texts, 13, order=order), tolerance=1e-9)


@pytest.mark.parametrize(
    "boundary",
    [words, phrases(1), phrases(3), lines, sentences, whole_response],
    ids=lambda each: each.name,
)
def test_boundaries(boundary: Boundary) -> None:
    check_boundary(boundary)


@pytest.mark.parametrize(
    "reranker",
    [
        *RERANKERS.values(),
        lead("two"),
        lead("gone"),
        weighted(mean_perplexity, SHARES),
        weighted(RERANKERS["mixture"], SHARES),
    ],
)
def test_rerankers(reranker: Reranker) -> None:
    check_reranker(reranker)


def test_the_outlier_filter_picks_its_judges_by_their_scores() -> None:
    check_reranker(without_outliers(mean_nll, 3.0), monotone=False)
    check_reranker(without_outliers(weighted(mean_nll, SHARES)), monotone=False)
