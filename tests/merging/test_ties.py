"""Tied heads: a merge computes what its parts say, however the head is stored and declared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from coolfusion.errors import LoadError
from coolfusion.merging import Adapter, Merge, MergeRecipe, merge, open_recipe
from coolfusion.merging.architecture import architecture_of, untied
from coolfusion.merging.stored import open_stored
from tests.checkpoints import write_adapter

VOCABULARY = 40
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
NEW = {
    **COMMON,
    **{"hidden_size": 16, "intermediate_size": VOCABULARY, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8},
}
OLD = {**COMMON, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": VOCABULARY}
# Matrices beside the embedding have as many rows as there are tokens, wherever a size is free.
CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**NEW),
    "gemma2": transformers.Gemma2Config(**NEW),
    "gpt2": transformers.GPT2Config(**OLD),
    "opt": transformers.OPTConfig(
        **COMMON, hidden_size=16, ffn_dim=VOCABULARY, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=VOCABULARY, word_embed_proj_dim=16,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**{**NEW, "hidden_act": "gelu"}),
    "bloom": transformers.BloomConfig(**COMMON, hidden_size=16, n_layer=1, n_head=2),
    "t5": transformers.T5Config(
        **COMMON, d_model=16, d_ff=VOCABULARY, d_kv=8, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    ),
}  # fmt: skip
IDS = torch.arange(3, 23)[None]


def kind_of(config: Any) -> Any:
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def write(folder: Path, config: Any, seed: int, *, tied: bool) -> Path:
    config = copy.deepcopy(config)
    config.tie_word_embeddings = tied
    torch.manual_seed(seed)
    model = kind_of(config).from_config(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.4)
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    model, info = kind_of(config).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    return model(input_ids=IDS, **more).logits


def averaged(a: Path, b: Path) -> torch.Tensor:
    """The logits of a model whose every tensor, tied or not, is the mean of the two."""
    one, other = loaded(a), loaded(b)
    mean = copy.deepcopy(one)
    for name, tensor in mean.named_parameters(remove_duplicate=False):
        parent, _, leaf = name.rpartition(".")
        value = (one.get_parameter(name) + other.get_parameter(name)) / 2
        setattr(mean.get_submodule(parent), leaf, torch.nn.Parameter(value.detach()))
        assert value.shape == tensor.shape
    return logits(mean)


def edited(folder: Path, target: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """A copy of a checkpoint with other tensors and settings (None: without it)."""
    target.mkdir()
    settings = {**json.loads((folder / "config.json").read_text()), **config}
    kept = {key: value for key, value in settings.items() if value is not None}
    (target / "config.json").write_text(json.dumps(kept))
    held = {**load_file(folder / "model.safetensors"), **tensors}
    kept = {key: value for key, value in held.items() if value is not None}
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("name", CONFIGS)
def test_tied_and_untied_in_every_pairing(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    tied = [write(tmp_path / f"tied{seed}", config, seed, tied=True) for seed in (1, 2)]
    pairs = [(tied[0], tied[1], True)]
    if name != "t5":  # whose settings say something else where nothing is tied
        own = [write(tmp_path / f"own{seed}", config, seed, tied=False) for seed in (3, 4)]
        pairs += [(tied[0], own[0], False), (own[0], tied[0], False), (own[0], own[1], False)]
    for number, (a, b, is_tied) in enumerate(pairs):
        output = merge(Merge("linear", (a, b)), tmp_path / f"out{number}")
        model = loaded(output)
        assert torch.allclose(logits(model), averaged(a, b), atol=1e-4)
        embedding, head = (
            m.weight
            for m in (
                model.get_input_embeddings(),
                model.lm_head if hasattr(model, "lm_head") else model.embed_out,
            )
        )
        assert (embedding is head) == is_tied
        said = json.loads((output / "config.json").read_text()).get("tie_word_embeddings")
        assert said is is_tied


@pytest.mark.parametrize("name", CONFIGS)
def test_a_head_that_is_stored_though_it_is_tied(tmp_path: Path, name: str) -> None:
    """Equal to the embedding it is tied, and otherwise not; alone it is the embedding."""
    a, b = (write(tmp_path / f"tied{seed}", CONFIGS[name], seed, tied=True) for seed in (1, 2))
    declared = architecture_of(json.loads((a / "config.json").read_text()))
    assert declared is not None
    source = next(
        key for key in declared.ties.values() if key in load_file(a / "model.safetensors")
    )
    head = next(key for key in declared.ties if "embed_tokens" not in key)
    embedding = load_file(a / "model.safetensors")[source]
    other = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(9))
    cases = {
        "equal": {head: embedding.clone()},
        "unequal": {head: other},
        "alone": {head: other, source: None},
    }
    for case, tensors in cases.items():
        odd = edited(a, tmp_path / case, tensors)
        assert (head in open_stored(odd).about.infos) == (case != "equal")
        for number, pair in enumerate(((odd, b), (b, odd), (odd, odd))):
            output = merge(Merge("linear", pair), tmp_path / f"{case}{number}")
            assert torch.allclose(logits(loaded(output)), averaged(*pair), atol=1e-4)


def test_what_the_class_says_counts_where_the_configuration_is_silent(tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{seed}", CONFIGS["gpt2"], seed, tied=True) for seed in (1, 2))
    silent = edited(a, tmp_path / "silent", {}, tie_word_embeddings=None)
    assert open_stored(silent).about.ties == {"lm_head.weight": "transformer.wte.weight"}
    output = merge(Merge("linear", (silent, b)), tmp_path / "out")
    assert torch.allclose(logits(loaded(output)), averaged(silent, b), atol=1e-4)
    llama = write(tmp_path / "llama", CONFIGS["llama"], 1, tied=False)
    silent = edited(llama, tmp_path / "silent-llama", {}, tie_word_embeddings=None)
    assert open_stored(silent).about.ties == {}


def test_a_checkpoint_of_the_base_model_has_shorter_names(tmp_path: Path) -> None:
    """As that of GPT-2 on the hub: ``wte.weight`` and no head."""
    a, b = (write(tmp_path / f"{seed}", CONFIGS["gpt2"], seed, tied=True) for seed in (1, 2))
    short = []
    for folder in (a, b):
        names = load_file(folder / "model.safetensors")
        tensors = dict.fromkeys(names)
        tensors |= {key.removeprefix("transformer."): value for key, value in names.items()}
        short.append(edited(folder, tmp_path / f"short{folder.name}", tensors))
    assert open_stored(short[0]).about.ties == {"lm_head.weight": "wte.weight"}
    output = merge(Merge("linear", tuple(short)), tmp_path / "out")
    assert torch.allclose(logits(loaded(output)), averaged(*short), atol=1e-4)


def test_an_adapter_on_the_names_of_the_whole_model(tmp_path: Path) -> None:
    a = write(tmp_path / "a", CONFIGS["gpt2"], 1, tied=True)
    names = load_file(a / "model.safetensors")
    tensors = dict.fromkeys(names)
    tensors |= {key.removeprefix("transformer."): value for key, value in names.items()}
    short = edited(a, tmp_path / "short", tensors)
    name = "transformer.h.0.attn.c_proj"
    torch.manual_seed(3)
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    lora = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    adapter = write_adapter(tmp_path / "lora", lora)
    output = merge(Merge("linear", (Adapter(adapter, short),)), tmp_path / "out")
    model = loaded(a)
    model.get_parameter(f"{name}.weight").data += 2 * (up @ down).T
    assert torch.allclose(logits(loaded(output)), logits(model), atol=1e-4)


def test_only_the_head_is_taken_for_the_embedding(tmp_path: Path) -> None:
    """Other matrices of the same shape that are missing are missing."""
    a = write(tmp_path / "a", CONFIGS["gpt2"], 1, tied=True)
    lacking = edited(a, tmp_path / "lacking", {"transformer.wpe.weight": None})
    with pytest.raises(Exception, match=r"wpe.weight.* is missing"):
        open_recipe(MergeRecipe(Merge("linear", (a, lacking))))


def test_adapters_of_a_tied_embedding_are_refused_whatever_the_sizes(tmp_path: Path) -> None:
    a = write(tmp_path / "a", CONFIGS["gpt2"], 1, tied=True)
    lora = {
        "transformer.wte.lora_embedding_A": torch.randn(2, VOCABULARY),
        "transformer.wte.lora_embedding_B": torch.randn(16, 2),
    }
    with pytest.raises(LoadError, match=r"wte.weight.* it is tied"):
        open_recipe(
            MergeRecipe(Merge("linear", (Adapter(write_adapter(tmp_path / "l", lora), a),)))
        )


def test_where_the_setting_means_more_it_stays_as_it_is() -> None:
    """T5 scales what its head sees where the head is tied."""
    config = CONFIGS["t5"].to_dict()
    assert untied(config, ["shared.weight", "lm_head.weight"]) == config
    llama = {**CONFIGS["llama"].to_dict(), "tie_word_embeddings": True}
    assert untied(llama, ["lm_head.weight"]) == {**llama, "tie_word_embeddings": False}
    assert untied(llama, ["model.norm.weight"]) == llama


def test_classes_that_transformers_does_not_know_go_by_the_usual_names(tmp_path: Path) -> None:
    config = {"model_type": "of-ones-own", "tie_word_embeddings": True}
    weights = {"backbone.tok_embeddings.weight": torch.ones(4, 2), "norm.weight": torch.ones(2)}
    for number, (more, ties) in enumerate(
        (
            ({}, {"lm_head.weight": "backbone.tok_embeddings.weight"}),
            (
                {"output.weight": torch.ones(4, 2)},
                {"output.weight": "backbone.tok_embeddings.weight"},
            ),
            ({"output.weight": torch.zeros(4, 2)}, {}),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_file({**weights, **more}, folder / "model.safetensors")
        assert open_stored(folder).about.ties == ties
