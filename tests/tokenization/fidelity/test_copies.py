"""Copies put together of parts, against copies that are written as JSON and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from tokenizers import models

from coolfusion.tokenization.fidelity.copies import copy_of, faithful_copy, without_names
from tests.odd_tokenizers import ODD
from tests.tokenization.fidelity.test_losses import NAMES, REAL, TYPED, raw_of

TEXT = "a  b\n\t3 words: na\u00efve \u65e5\u672c \U0001f44d <0x41> word \u2581 " + " ".join(TYPED)

SMALL = [name for name in NAMES if name not in {path.name for path in REAL}]


def written(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())


def read(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_str(json.dumps(spec))
    made.encode_special_tokens = True
    return made


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_is_written_as_its_original(name: str) -> None:
    raw = raw_of(name)
    wanted = written(raw) | {"truncation": None, "padding": None}
    raw.enable_truncation(7)
    raw.enable_padding()
    assert written(copy_of(raw)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_a_faithful_copy_differs_in_its_added_tokens_alone(name: str) -> None:
    raw = raw_of(name)
    made = faithful_copy(raw)
    spec, got = written(raw), written(made)
    numbers = {token["content"]: token["id"] for token in spec["added_tokens"]}
    for token in got["added_tokens"]:
        assert numbers[token["content"]] == token["id"]
        assert token["special"] or not (token["lstrip"] or token["rstrip"])
    assert not got["model"].get("dropout")
    if spec["model"]["type"] != "Unigram":  # whose scores are rounded
        spec["model"] |= {"dropout": None} if "dropout" in spec["model"] else {}
        assert got["model"] == spec["model"]
        # The slow twin: the same added tokens, in a tokenizer that is written and read.
        twin = read(spec | {"added_tokens": got["added_tokens"]})
        assert made.encode(TEXT).ids == twin.encode(TEXT).ids


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_without_names_finds_none(name: str) -> None:
    made = faithful_copy(raw_of(name))
    bare = without_names(made)
    spec = written(made)
    for token in spec["added_tokens"]:
        token["special"] = True
    assert written(bare)["added_tokens"] == spec["added_tokens"]
    if spec["model"]["type"] != "Unigram":
        assert bare.encode(TEXT).ids == read(spec).encode(TEXT).ids


def test_a_model_is_shared_unless_it_must_differ() -> None:
    raw = raw_of("byte_bpe")
    copy = faithful_copy(raw)
    model: Any = raw.model
    model.dropout = 0.25  # of the one model that both have
    shared: Any = copy.model
    assert shared.dropout == 0.25
    dropping = ODD["random-merges"]()
    apart: Any = faithful_copy(dropping).model
    kept: Any = dropping.model
    assert (kept.dropout, apart.dropout) == (0.5, None)


def test_scores_of_unigram_models_have_exact_sums() -> None:
    raw = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.1), ("aa", -2.3)], 0))
    state = json.loads(faithful_copy(raw).model.__getstate__())
    assert all((score * 2**24).is_integer() for _, score in state["vocab"])
    assert [name for name, _ in state["vocab"]] == ["<unk>", "a", "aa"]
