"""Every decoder that transformers offers, built small from its default configuration."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from coolfusion.backends.huggingface import miniature

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
KINDS = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# What default configurations lack that a model of that kind needs.
NEEDED: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 8, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"rope_parameters": ROPE, "head_dim": 128},
    "hunyuan_v1_moe": {"rope_parameters": ROPE, "head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"rope_parameters": ROPE, "head_dim": 128},
    "nemotron": {"num_key_value_heads": 48, "head_dim": 128},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
}
# Why a kind cannot be built small, or cannot be asked about ids alone.
NOT_BUILT = {
    "blt": "a miniature of",
    "dbrx": "rope_theta",
    "gemma3n": "PIL",
    "gemma4_assistant": "hidden_size_per_layer_input",
    "gemma4_unified_assistant": "shared_kv_states",
    "musicgen": "dropout",
    "musicgen_melody": "dropout",
    "plbart": "divisible by num_heads",
    "qwen4_exp": "unsupported operand",
    "qwen4_exp_text": "unsupported operand",
    "whisper": "divisible by num_heads",
}


def build(kind: str, **changes: Any) -> Any:
    """A small random model of a kind; raises what keeps it from being built."""
    config = transformers.AutoConfig.for_model(kind, **{**NEEDED.get(kind, {}), **changes})
    failure: Exception | None = None
    for target, repeats in miniature.ATTEMPTS:
        try:
            small = miniature.small_config(config, target, repeats)
            torch.manual_seed(0)
            model = miniature._made(transformers.AutoModelForCausalLM.from_config, small)
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[3, 4, 5, 6, 7, 8]]), use_cache=False).logits
            if bool(torch.isfinite(logits).all()):
                return model
        except Exception as error:
            failure = failure or error
    raise failure or ValueError("its logits are not finite")
