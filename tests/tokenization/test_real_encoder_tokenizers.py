"""What an encoder reads, with tokenizers that nobody here wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import transformers

from coolfusion.backends.huggingface.loading import load_tokenizer

FOLDER = os.environ.get("COOLFUSION_REAL")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="COOLFUSION_REAL names no folder")

SENTENCES = (
    "translate English to German: The house is wonderful.",
    "Der Hund schläft, 12.345 Katzen nicht!",
    "naïve café \U0001f44d",
)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_an_encoder_reads_what_its_own_tokenizer_gives(sentence: str) -> None:
    path = Path(FOLDER or ".") / "tokenizers" / "t5-small"
    ours = load_tokenizer(path, lossy_ok=True)
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert list(ours.encode_closed(sentence)) == theirs(sentence).input_ids
    assert ours.encode_closed(sentence)[-1] == theirs.eos_token_id
    typed = ours.encode_closed(f"{sentence} </s> and more")
    assert typed.count(theirs.eos_token_id) == 1
    assert ours.encode_prompt(sentence) == ours.encode_closed(sentence)[:-1]
