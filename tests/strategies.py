"""Hypothesis strategies: texts that break naive code, score tables, ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from coolfusion.decoding.segments.rerankers import ScoreTable
from coolfusion.decoding.source_weights import uniform
from coolfusion.testing import HOSTILE_TEXTS
from coolfusion.types import Step

# Families of toy tokenizers, and texts for toy sources to learn and argue about.
FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
STORIES = (
    "Tom has 3 apples. He eats 1 apple.\nNow Tom has 2 apples left.",
    "Ann has 5 pears. She buys 2 pears.\n\nNow Ann has 7 pears in all.",
    "The cat sat on the mat.\n    The dog sat on the cat.",
    "Tom sat on the mat. Ann has 12 apples.\n\nThe cat eats 1 pear.",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002 Tom: caf\u00e9 \U0001f469\u200d\U0001f680 ok.",
)

FRAGMENTS = (
    *("word", " and", " don't", "The", " x", "Tom has", "ing", "_name", "CamelCase"),
    *(" ", "  ", "    ", "\n", "\n\n", ".\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000"),
    *("0", " 7", "12345", "3.14", "1,234", " 00", "10\u00a0000"),
    *("e\u0301", "\u0301", "\u00e9", "a\u0300\u0302", "\u00df"),
    *("\U0001f469\u200d\U0001f680", "\U0001f44d\U0001f3fd", "\u200d", "\U0001f1e9\U0001f1ea"),
    *("<|im_end|>", "</s>", "<s>", "<end>", "<unk>", "<0x41>", "[SEP]"),
    *(
        "\u05e9\u05dc\u05d5\u05dd",
        " \u0645\u0631\u062d\u0628\u0627",
        "\u041f\u0440\u0438\u0432\u0435\u0442",
    ),
    *(
        "\u65e5\u672c\u8a9e",
        "\u306e",
        "\u3002",
        "\u4e2d\u6587",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    ),
    *(
        "def f(x):\n    return x",
        "**bold**",
        "`code`",
        "# ",
        "| a |",
        "...",
        "!?",
        "\u2026",
        "\u2014",
    ),
)

texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=14).map("".join),
    st.sampled_from(HOSTILE_TEXTS),
    st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), min_size=1, max_size=20),
)
long_texts = st.lists(texts, min_size=4, max_size=12).map("".join)


def id_sequences(vocab_size: int, min_size: int = 1, max_size: int = 10) -> st.SearchStrategy:
    """Tuples of ids below ``vocab_size``."""
    return st.lists(st.integers(0, vocab_size - 1), min_size=min_size, max_size=max_size).map(tuple)


@st.composite
def splits(draw: st.DrawFn, source: st.SearchStrategy[str] = texts) -> list[str]:
    """A text in pieces that join to it."""
    text = draw(source)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=12)))
    edges = [0, *(cut for cut in cuts if cut < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@st.composite
def score_tables(draw: st.DrawFn) -> ScoreTable:
    """Tables of 2 to 5 candidates and 1 to 4 sources with uniform weights."""
    candidates, sources = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    noise = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_tokens = noise.integers(1, 7, size=(candidates, sources)).astype(np.float64)
    nll = noise.uniform(0.001, draw(st.sampled_from([0.5, 5.0, 30.0])), (candidates, sources))
    return ScoreTable(
        tuple("abcd"[:sources]),
        -nll * num_tokens,
        num_tokens,
        noise.integers(1, 40, size=candidates).astype(np.float64),
        uniform(sources),
    )


def said(steps: Iterable[Step]) -> list[Step]:
    """Steps without their costs: time, and what the models really computed."""
    return [
        replace(
            step,
            seconds=0.0,
            usage=tuple(replace(u, num_forwarded=0, num_passes=0) for u in step.usage),
        )
        for step in steps
    ]
