"""Which settings of two configurations may differ, and that whatever changes a number may not."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from coolfusion.errors import UsageError
from coolfusion.merging import Merge, MergeRecipe, open_recipe
from coolfusion.merging.agreement import differences
from coolfusion.merging.architecture import full_settings
from tests.checkpoints import write_llama

LLAMA3_ROPE = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 8192,
}
# Configurations as they are published (sizes left out where they are equal), by what they are.
MISTRAL = {
    **{"model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5},
    **{"max_position_embeddings": 32768, "torch_dtype": "bfloat16", "use_cache": True},
}
MISTRAL_01 = {**MISTRAL, "rope_theta": 10000.0, "sliding_window": 4096}
MISTRAL_02 = {**MISTRAL, "rope_theta": 1000000.0, "sliding_window": None}
QWEN = {
    **{"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "rms_norm_eps": 1e-6},
    **{"num_key_value_heads": 2, "use_sliding_window": False, "rope_theta": 1000000.0},
    **{"num_hidden_layers": 4, "torch_dtype": "bfloat16", "bos_token_id": 151643},
}
QWEN_BASE = {
    **QWEN,
    **{"max_position_embeddings": 131072, "sliding_window": 131072, "max_window_layers": 4},
    **{"eos_token_id": 151643, "use_mrope": False, "transformers_version": "4.40.1"},
}
QWEN_CHAT = {
    **QWEN,
    **{"max_position_embeddings": 32768, "sliding_window": 32768, "max_window_layers": 3},
    **{"eos_token_id": 151645, "transformers_version": "4.43.1", "attention_dropout": 0.1},
}
QWEN_MATHS = {**QWEN_BASE, "max_position_embeddings": 4096, "rope_theta": 10000.0}
LLAMA = {
    **{"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_size": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "pretraining_tp": 1},
    **{"architectures": ["LlamaForCausalLM"], "eos_token_id": 128001, "vocab_size": 128256},
}
LLAMA_31 = {**LLAMA, "rope_scaling": LLAMA3_ROPE, "max_position_embeddings": 131072}
GEMMA = {"model_type": "gemma2", "hidden_size": 64, "num_hidden_layers": 4, "head_dim": 16}
PHI = {"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": 10000.0}
LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 6},
}

ALIKE: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "base and chat": (QWEN_BASE, QWEN_CHAT),
    "as before and as now": (
        LLAMA_31,
        {
            **{key: LLAMA_31[key] for key in LLAMA_31 if key not in ("rope_theta", "rope_scaling")},
            "rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0},
            **{"dtype": "float32", "transformers_version": "5.23.0"},
        },
    ),
    "old name of the kind": (
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    "default and silent": (MISTRAL_01, {"model_type": "mistral", "rms_norm_eps": 1e-5}),
    "whole and fraction": (LLAMA, {**LLAMA, "rope_theta": 500000}),
    "null and default": (
        LLAMA,
        {**LLAMA, "head_dim": None, "rope_scaling": None, "attention_bias": False},
    ),
    "trained elsewhere": (
        MISTRAL_01,
        {
            **MISTRAL_01,
            **{"use_cache": False, "pad_token_id": 2, "eos_token_id": [2, 32000]},
            **{"unsloth_version": "2025.1", "_name_or_path": "here", "model_max_length": 2048},
            **{"tokenizer_padding_side": "left", "temperature": 0.5, "max_position_embeddings": 9},
            **{"num_labels": 5, "quantization_config": {}},
        },
    ),
    "nested": (GEMMA3, {**GEMMA3, "text_config": {**GEMMA3["text_config"], "use_cache": False}}),
    "of ones own": (
        {"model_type": "of-ones-own", "width": 4, "use_cache": True},
        {
            **{"model_type": "of-ones-own", "width": 4, "torch_dtype": "float16"},
            **{"unsloth_fixed": True, "cache_implementation": "static", "id2label": {"0": "a"}},
        },
    ),
}
# And the settings that a refusal names.
UNLIKE: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], tuple[str, ...]]] = {
    "versions of mistral": (
        MISTRAL_01,
        MISTRAL_02,
        ("rope_parameters.rope_theta", "sliding_window"),
    ),
    "maths": (QWEN_BASE, QWEN_MATHS, ("rope_parameters.rope_theta",)),
    "longer context": (LLAMA, LLAMA_31, ("rope_parameters.rope_type", "rope_parameters.factor")),
    "linear": (
        LLAMA,
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
        ("rope_parameters.factor",),
    ),
    "yarn and its length": (
        {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 99},
        ("max_position_embeddings",),
    ),
    "longrope": (
        {**PHI, "rope_scaling": LONG},
        {**PHI, "rope_scaling": {**LONG, "long_factor": [3.0] * 8}},
        ("rope_parameters.long_factor",),
    ),
    "eps": (LLAMA, {**LLAMA, "rms_norm_eps": 1e-6}, ("rms_norm_eps",)),
    "activation": (LLAMA, {**LLAMA, "hidden_act": "gelu"}, ("hidden_act",)),
    "heads": (LLAMA, {**LLAMA, "num_attention_heads": 2}, ("num_attention_heads", "head_dim")),
    "scale": (GEMMA, {**GEMMA, "query_pre_attn_scalar": 8}, ("query_pre_attn_scalar",)),
    "cap of logits": (
        GEMMA,
        {**GEMMA, "final_logit_softcapping": None},
        ("final_logit_softcapping",),
    ),
    "cap of attention": (
        GEMMA,
        {**GEMMA, "attn_logit_softcapping": 9.0},
        ("attn_logit_softcapping",),
    ),
    "kinds of layers": (GEMMA, {**GEMMA, "layer_types": ["full_attention"] * 4}, ("layer_types",)),
    "window": (GEMMA, {**GEMMA, "sliding_window": 8}, ("sliding_window",)),
    "switched on": (
        QWEN_CHAT,
        {**QWEN_CHAT, "use_sliding_window": True},
        ("use_sliding_window", "sliding_window", "layer_types"),
    ),
    "experts": (
        {"model_type": "mixtral"},
        {"model_type": "mixtral", "num_experts_per_tok": 1},
        ("num_experts_per_tok",),
    ),
    "normed": (
        {"model_type": "qwen3_moe"},
        {"model_type": "qwen3_moe", "norm_topk_prob": True},
        ("norm_topk_prob",),
    ),
    "multipliers": (
        {"model_type": "granite"},
        {"model_type": "granite", "residual_multiplier": 0.2},
        ("residual_multiplier",),
    ),
    "order": (
        {"model_type": "opt"},
        {"model_type": "opt", "do_layer_norm_before": False},
        ("do_layer_norm_before",),
    ),
    "parallel": (
        {"model_type": "gpt_neox"},
        {"model_type": "gpt_neox", "use_parallel_residual": False},
        ("use_parallel_residual",),
    ),
    "rotary part": (
        {"model_type": "gpt_neox"},
        {"model_type": "gpt_neox", "rotary_pct": 0.5},
        ("rope_parameters.partial_rotary_factor",),
    ),
    "scaled by layer": (
        {"model_type": "gpt2"},
        {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
        ("scale_attn_by_inverse_layer_idx",),
    ),
    "nested": (
        GEMMA3,
        {**GEMMA3, "text_config": {**GEMMA3["text_config"], "sliding_window": 7}},
        ("text_config.sliding_window",),
    ),
    "of ones own": (
        {"model_type": "of-ones-own", "curvature": 4},
        {"model_type": "of-ones-own", "curvature": 5},
        ("curvature",),
    ),
    "of ones own, in one": (
        {"model_type": "of-ones-own", "rope_scaling": None},
        {"model_type": "of-ones-own", "rope_scaling": {"type": "linear"}, "depth": 3},
        ("rope_scaling", "depth"),
    ),
}


def named(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {key for key, _, _ in differences(one, other)}


@pytest.mark.parametrize("case", ALIKE)
def test_harmless_differences_merge_without_a_word(case: str) -> None:
    one, other = ALIKE[case]
    assert named(one, other) == named(other, one) == set()


@pytest.mark.parametrize("case", UNLIKE)
def test_settings_that_change_what_tensors_mean_are_named(case: str) -> None:
    one, other, wanted = UNLIKE[case]
    assert named(one, other) == named(other, one) >= set(wanted)


def test_a_refusal_names_settings_values_and_checkpoints(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", 1)
    b = write_llama(tmp_path / "b", 2, rms_norm_eps=0.1, attention_bias=True)
    with pytest.raises(UsageError, match=r"rms_norm_eps = 1e-06 against 0.1") as caught:
        open_recipe(MergeRecipe(Merge("linear", (a, b))))
    for said in (str(a), str(b), "attention_bias = False against True"):
        assert said in str(caught.value)


def test_settings_nobody_reads_are_left_out() -> None:
    config = {**LLAMA, "unsloth_version": "1", "bos_token_id": 3, "rope_scaling": None}
    settings = full_settings(config)
    assert settings is not None
    assert "unsloth_version" not in settings
    assert settings["rope_parameters"] == {"rope_theta": 500000.0, "rope_type": "default"}
    assert full_settings({"model_type": "of-ones-own"}) is None
    assert full_settings({**LLAMA, "num_attention_heads": "many"}) is None


@pytest.mark.parametrize("size", [10**9, -1, "4", None, [4]])
def test_configurations_that_are_nonsense_have_no_class(size: Any) -> None:
    """And are compared as they are, in a bounded time."""
    config = {**LLAMA, "num_hidden_layers": size, "architectures": 3, "text_config": "x"}
    assert named(config, {**config, "unsloth_version": "2"}) <= {"unsloth_version"}
    assert named(config, {**config, "rms_norm_eps": 0.1}) == {"rms_norm_eps"}


SIZES = {
    **{"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
SMALL = {
    "llama": transformers.LlamaConfig(**SIZES),
    "gemma2": transformers.Gemma2Config(**SIZES, sliding_window=5),
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=3, sliding_window=5),
    "gpt_neox": transformers.GPTNeoXConfig(**{**SIZES, "hidden_act": "gelu"}),
}
IDS = (torch.arange(30) * 7 % 37 + 3)[None]


def moved(value: Any) -> list[Any]:
    """Other values of a setting's type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value]
    if isinstance(value, float):
        return [3 * value + 0.5]
    if isinstance(value, dict) and "rope_theta" in value:
        return [{**value, "rope_theta": 77.0}, {**value, "rope_type": "linear", "factor": 4.0}]
    return {str: ["relu"], type(None): [3, 2.5]}.get(type(value), [])


@pytest.mark.parametrize("name", SMALL)
def test_whatever_changes_a_logit_is_named(name: str) -> None:
    """Every setting of the class moved a little, with the same tensors."""
    config = SMALL[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    tensors, settings = model.state_dict(), config.to_dict()
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    with torch.no_grad():
        before = model(input_ids=IDS).logits
    silent, changing = [], 0
    for key in set(settings) - {"model_type", "tie_word_embeddings", "vocab_size"}:
        for value in moved(settings[key]):
            changed = {**settings, key: value}
            try:
                other = type(config).from_dict(copy.deepcopy(changed))
                with torch.device("meta"):
                    empty = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(other))
                if {k: tensor.shape for k, tensor in empty.state_dict().items()} != shapes:
                    continue  # which every merge refuses
                twin = transformers.AutoModelForCausalLM.from_config(other).eval()
                twin.load_state_dict(tensors)
                with torch.no_grad():
                    after = twin(input_ids=IDS).logits
            except Exception:  # a value that the class does not accept
                continue
            if not torch.allclose(before, after, atol=1e-4):
                changing += 1
                silent += [] if named(settings, changed) else [f"{key} = {value}"]
    assert silent == []
    assert changing >= 3
