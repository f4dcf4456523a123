"""Adapters that the benchmarks train are read back as what was trained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.train_family import PROJECTIONS, LowRank, adapted_modules, save_adapter
from coolfusion.merging import Adapter, Merge, MergeRecipe, open_recipe


def test_a_stored_adapter_is_the_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    adapted = adapted_modules(model)
    assert len(adapted) == 2 * len(PROJECTIONS)
    ids = torch.arange(8)[None]
    before = model(ids).logits
    for each in adapted.values():
        torch.nn.init.normal_(each.up, std=0.1)
    assert isinstance(next(iter(adapted.values())), LowRank)
    assert not torch.allclose(model(ids).logits, before)
    save_adapter(adapted, tmp_path / "base", tmp_path / "lora")

    opened = open_recipe(MergeRecipe(Merge("linear", (Adapter(tmp_path / "lora"),))))
    for name in adapted:
        trained = model.get_submodule(name).weight
        assert torch.allclose(opened.read(f"{name}.weight").float(), trained, atol=1e-6)
