"""Tiny checkpoints for the tests of merging, written without a model library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VOCABULARY = ("<s>", "</s>", *"abcdefghijkl")
WIDTH = 4


def llama_tensors(
    seed: int, *, tied: bool = True, dtype: torch.dtype = torch.float32, num_layers: int = 3
) -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of a small Llama."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    tensors = {"model.embed_tokens.weight": some(len(VOCABULARY), WIDTH)}
    for layer in range(num_layers):
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = some(WIDTH, WIDTH)
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = some(6, WIDTH)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = some(WIDTH)
    tensors["model.norm.weight"] = some(WIDTH)
    if not tied:
        tensors["lm_head.weight"] = some(len(VOCABULARY), WIDTH)
    return tensors


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    num_shards: int = 1,
    vocabulary: tuple[str, ...] = VOCABULARY,
    **config: Any,
) -> Path:
    """A folder with config, tokenizer and the tensors dealt out to shards."""
    folder.mkdir(parents=True)
    settings = {
        "model_type": "llama",
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    pieces = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = {"model": {"type": "WordLevel", "vocab": pieces}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "generation_config.json").write_text("{}")
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return folder
    where = {
        name: f"model-{number % num_shards + 1:05d}-of-{num_shards:05d}.safetensors"
        for number, name in enumerate(tensors)
    }
    for file in set(where.values()):
        held = {name: tensors[name] for name in tensors if where[name] == file}
        save_file(held, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_llama(folder: Path, seed: int, **options: Any) -> Path:
    """A small Llama of random tensors; options are those of the two functions above."""
    kept = {key: options.pop(key) for key in ("tied", "dtype", "num_layers") if key in options}
    return write_checkpoint(folder, llama_tensors(seed, **kept), **options)


def write_adapter(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    base: str | Path | None = None,
    **config: Any,
) -> Path:
    """A LoRA adapter as peft stores it; names of tensors get peft's prefix."""
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": None if base is None else str(base),
        "r": 2,
        "lora_alpha": 4,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a folder's safetensors files hold."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
