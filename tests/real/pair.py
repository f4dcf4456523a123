"""Two real pretrained models in the folder that ``COOLFUSION_PAIR`` names (``make pair``)."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import transformers

from benchmarks.real_prompts import KINDS, MAIN
from coolfusion import Source
from coolfusion.backends.huggingface import load_source

FOLDER = os.environ.get("COOLFUSION_PAIR")
needs_pair = pytest.mark.skipif(not FOLDER, reason="COOLFUSION_PAIR names no folder")

SMOLLM2, GEMMA = NAMES = ("smollm2-135m-instruct", "gemma-3-270m")
PROMPTS = dict(zip(KINDS, MAIN, strict=True))
WINDOW = 512  # tokens that a sliding layer of Gemma sees


def long_prompt(num_lines: int) -> str:
    """A text of some 20 tokens a line, whose end asks for its beginning."""
    lines = [
        f"{number}. The shop on street {number} opens at noon and closes late in the evening.\n"
        for number in range(1, num_lines + 1)
    ]
    return f"The parcel for Anna is in the red box.\n{''.join(lines)}The parcel for Anna is in the"


def path_of(name: str) -> str:
    """The folder of a model; pytest fails with the way to make it where it is missing."""
    path = Path(FOLDER or "") / name
    assert path.is_dir(), f"COOLFUSION_PAIR has no folder {name}; `make pair` sets both models up"
    return str(path)


@lru_cache
def source(name: str, dtype: str = "float32") -> Source:
    """A model as a source, loaded once a process."""
    return load_source(path_of(name), name, dtype=dtype)


def pair() -> list[Source]:
    """Both models in single precision."""
    return [source(name) for name in NAMES]


@lru_cache
def own_tokenizer(name: str) -> Any:
    """The tokenizer of transformers, without anything of the package."""
    return transformers.AutoTokenizer.from_pretrained(path_of(name))


def model_of(each: Source) -> Any:
    """The transformers model behind a source."""
    backend: Any = each.backend
    return backend._model


def generated(each: Source, prompt: str, num_tokens: int) -> str:
    """What the model's own greedy ``generate`` writes, up to an end."""
    inputs = own_tokenizer(each.name)(prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    ids = model_of(each).generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=sorted(each.tokenizer.end_ids),
        pad_token_id=0,
    )[0, length:]
    pieces = [each.tokenizer.piece(t) for t in ids.tolist() if t not in each.tokenizer.end_ids]
    return b"".join(piece or b"" for piece in pieces).decode(errors="ignore")
