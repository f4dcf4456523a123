"""The laws over tokenizers and models that nobody here wrote."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import pytest

from coolfusion.errors import LossyTokenizerError
from coolfusion.testing import HOSTILE_TEXTS, check_backend, check_tokenizer
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.tokenization.boundaries import words
from coolfusion.tokenization.canonical import splits
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer

FOLDER = os.environ.get("COOLFUSION_REAL")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="COOLFUSION_REAL names no folder")

ROOT = Path(FOLDER or ".")
LOSSY = {"t5-small": "white space", "bert-base-cased": "white space", "sp-ja-unigram-8000": "loses"}


def children(folder: str) -> list[str]:
    base = ROOT / folder
    return sorted(path.name for path in base.iterdir()) if FOLDER and base.is_dir() else []


EXACT = [name for name in children("tokenizers") if name not in LOSSY]
LOSING = [name for name in children("tokenizers") if name in LOSSY]
MODELS = children("models")
GROUPS = [*combinations(EXACT, 2), *combinations(EXACT, 3)]


@lru_cache
def tokenizer(name: str) -> HuggingFaceTokenizer:
    from coolfusion.backends.huggingface.loading import load_tokenizer

    return load_tokenizer(ROOT / "tokenizers" / name)


@lru_cache
def source(name: str):
    from coolfusion.backends.huggingface import load_source

    return load_source(ROOT / "models" / name, name)


@pytest.mark.parametrize("name", EXACT)
def test_exact_tokenizers_keep_the_laws(name: str) -> None:
    check_tokenizer(tokenizer(name))


@pytest.mark.parametrize("name", LOSING)
def test_lossy_tokenizers_are_refused_by_what_they_lose(name: str) -> None:
    from coolfusion.backends.huggingface.loading import load_tokenizer

    with pytest.raises(LossyTokenizerError, match=LOSSY[name]):
        load_tokenizer(ROOT / "tokenizers" / name)
    accepted = load_tokenizer(ROOT / "tokenizers" / name, lossy_ok=True)
    assert accepted.losses
    assert accepted.encode("plain words")


@pytest.mark.parametrize("names", GROUPS, ids="+".join)
def test_ratified_cuts_split_every_encoding(names: tuple[str, ...]) -> None:
    tokenizers = [tokenizer(name) for name in names]
    for text in HOSTILE_TEXTS:
        cuts = list(ratified_cuts(text, words, tokenizers))
        for cut in cuts:
            assert all(splits(text[:cut], text[cut:], each) for each in tokenizers)
        longer = text + "\n\n  0000 and more"
        spaced = {cut for cut in cuts if text[cut].isspace()}
        assert spaced <= set(ratified_cuts(longer, words, tokenizers))


@pytest.mark.parametrize(
    "path", [*(f"tokenizers/{n}" for n in EXACT), *(f"models/{n}" for n in MODELS)]
)
def test_raw_prompts_are_encoded_as_transformers_does(path: str) -> None:
    import transformers

    from coolfusion.backends.huggingface.loading import load_tokenizer

    theirs = transformers.AutoTokenizer.from_pretrained(str(ROOT / path))
    ours = load_tokenizer(ROOT / path)
    for text in ("Once upon a time", " Tom has 3.\n\nHe", "caf\u00e9 \u65e5\u672c ", "x"):
        expected = list(theirs(text)["input_ids"])
        while expected and expected[-1] == theirs.eos_token_id:
            expected.pop()
        assert list(ours.encode_prompt(text)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_models_keep_the_laws(name: str) -> None:
    own = source(name)
    from coolfusion.backends.huggingface import TransformersBackend

    check_tokenizer(own.tokenizer)
    check_backend(lambda: TransformersBackend(own.backend._model), tolerance=1e-3)


@pytest.mark.parametrize(
    "names",
    [*combinations(MODELS, 1), *combinations(MODELS, 2), *combinations(MODELS, 3)],
    ids="+".join,
)
def test_fusion(names: tuple[str, ...]) -> None:
    from coolfusion import Request, SegmentDecoder

    sources = [source(name) for name in names]
    decoder = SegmentDecoder(sources)
    state = decoder.start("Once upon a time, there was a little", Request(max_new_tokens=60))
    steps = []
    while state.stop_reason is None:
        state, step = decoder.step(state)
        steps.append(step)
        for k in state.active:
            assert state.encoded[k].ids == sources[k].tokenizer.encode(state.text)
        so_far = min(state.num_tokens)
        assert state.stop_reason is not None or so_far < 60
    assert "".join(step.text for step in steps) == state.text != ""
    assert decoder.finish(state, steps).warnings == ()
