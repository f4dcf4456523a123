"""Covers of texts by tokenizers, and mixtures of models, that nobody here made."""

from __future__ import annotations

import os
import random
import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import transformers

from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import make_mixture
from coolfusion.decoding.request import Request
from coolfusion.errors import LoadError
from coolfusion.testing import HOSTILE_TEXTS
from coolfusion.tokenization.continuations import examples
from coolfusion.tokenization.covers import Covering
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.covers_by_hand import missing

FOLDER = os.environ.get("COOLFUSION_REAL")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="COOLFUSION_REAL names no folder")
ROOT = Path(FOLDER or ".")
TOKENIZERS = sorted(path.name for path in (ROOT / "tokenizers").glob("*"))
LOOKING_AHEAD = (
    "I don't they'RE we'll 'twas rock'n'roll's x'LL 12 123 1234 12345 1,000.50",
    "a  b   c    d\n\n\n  e\t\tf.\n\n  \r\n g \n  h     ",
    "def f(x):\n    return  x+1  # comment\n\n\n\tif y:\n\t\tpass",
)
# White space that the next character joins or leaves alone, and other ends that look ahead.
BEFORE = (
    "  ",
    "x   ",
    "\n\n ",
    " \t",
    "1  ",
    ".  ",
    "\u3000 ",
    "\u65e5 ",
    "don'",
    "12",
    "a",
    "\r\n",
)
AFTER = (
    *("\u65e5\u672c", "\u8a9e", "\U0001f44d", "\U00020000", "\u00e9", "\u0436", "\u0e23", "\u0628"),
    *("\ud55c", "\u0780", "7", "\u0663", "the", "ll", "(", "\u3002", "\u0301", "\u200d", "\u00a0"),
)
OPENING = "Once upon a time, there was a little girl named Lily. She"


@lru_cache
def tokenizer(name: str) -> HuggingFaceTokenizer:
    loaded = transformers.AutoTokenizer.from_pretrained(ROOT / "tokenizers" / name)
    try:
        return HuggingFaceTokenizer(loaded.backend_tokenizer, lossy_ok=True)
    except LoadError as error:
        pytest.skip(f"its tokens have no bytes of their own: {error}")


def size_of(own: HuggingFaceTokenizer) -> int:
    return 1 + max(i for i in range(300_000) if own.piece(i) is not None)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_beginning_of_an_encoding_is_a_cover(name: str) -> None:
    own = tokenizer(name)
    size = size_of(own)
    covering, row = Covering(own, size), np.full(size, -np.log(size))
    tried = 0
    for text in (*LOOKING_AHEAD, *HOSTILE_TEXTS):
        spelled = b"".join(own.piece(i) or b"" for i in own.encode(text))
        if spelled == text.encode():
            tried += 1
            assert missing(own, covering, text, row) == [], text
    assert tried >= 10 or own.losses


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_sure_model_is_sure_of_its_bytes(name: str) -> None:
    """Nearly all mass is on the canonical next token, and so on its bytes."""
    own = tokenizer(name)
    if own.losses != own.rare_losses:
        pytest.skip("what it loses has no cover")
    size = size_of(own)
    covering, noise = Covering(own, size), random.Random(7)
    pairs = [(before, after) for before in BEFORE for after in AFTER]
    for before, after in [("  ", "\u65e5"), *noise.sample(pairs, 50)]:
        text = unicodedata.normalize("NFC", before + after)
        ids, cover = own.encode(text), covering.begin()
        for byte in text.encode():
            rows = {each: sure_row(ids, each, size) for each in cover.unknown}
            cover = covering.learn(cover, rows)
            assert covering.bounds(cover).lower[byte] > 0.99, text
            cover = covering.advance(cover, byte)


def sure_row(ids: tuple[int, ...], prefix: tuple[int, ...], size: int) -> np.ndarray:
    row = np.full(size, np.log(1e-3 / size))
    if ids[: len(prefix)] == prefix and len(prefix) < len(ids):
        row[ids[len(prefix)]] = np.log(0.999)
    return row


@pytest.mark.parametrize("name", TOKENIZERS)
def test_anything_may_follow(name: str) -> None:
    """The slow twin: examples of every script, category and first byte, after ends that matter."""
    own, noise = tokenizer(name), random.Random(11)
    if own.losses != own.rare_losses:
        pytest.skip("what it loses has no cover")
    size = size_of(own)
    covering, row = Covering(own, size), np.full(size, -np.log(size))
    for after in noise.sample(examples(), 60):
        text = noise.choice(BEFORE) + after
        if b"".join(own.piece(i) or b"" for i in own.encode(text)) == text.encode():
            assert missing(own, covering, text, row) == [], text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_next_bytes_are_a_distribution_and_memory_is_bounded(name: str) -> None:
    own = tokenizer(name)
    if own.losses != own.rare_losses:
        pytest.skip("what it loses has no cover")
    size = size_of(own)
    covering, noise = Covering(own, size), np.random.default_rng(7)
    row = np.log(noise.dirichlet(np.full(size, 0.5)) + 1e-300)
    cover = covering.begin()
    for byte in " ".join(LOOKING_AHEAD).encode():
        cover = covering.advance(covering.learn(cover, dict.fromkeys(cover.unknown, row)), byte)
        known = covering.learn(cover, dict.fromkeys(cover.unknown, row))
        assert np.isclose(covering.bounds(known).lower.sum(), 1.0)
        assert len(cover.branches) <= 64


@lru_cache
def model(name: str) -> Source:
    return load_source(ROOT / "models" / name, name)


@pytest.mark.parametrize("rule", ["arithmetic", "geometric"])
def test_real_models_mixed_byte_by_byte(rule: str) -> None:
    stories, baby = model("stories260K"), model("babyllama-361")
    mixture = MixtureDecoder([stories, baby], make_mixture(rule))
    generation = mixture.generate(OPENING, Request(60))
    assert len(generation.text) > 20
    backwards = MixtureDecoder([baby, stories], make_mixture(rule))
    assert backwards.generate(OPENING, Request(60)).text == generation.text
    for name, usage in generation.stats.usage.items():
        assert usage.num_passes <= 2.5 * len(model(name).tokenizer.encode(generation.text))


def test_a_real_model_mixed_with_itself() -> None:
    stories = model("stories260K")
    again = Source("again", stories.tokenizer, stories.backend)
    for route in ("tokens", "bytes"):
        alone = MixtureDecoder([stories], make_mixture(route=route))
        both = MixtureDecoder([stories, again], make_mixture(route=route))
        assert alone.generate(OPENING, Request(40)).text == both.generate(OPENING, Request(40)).text
