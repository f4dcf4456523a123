"""Adapters that peft wrote: merged as peft merges them, or refused with the setting's name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from coolfusion.errors import LoadError
from coolfusion.merging import Adapter, Merge, merge
from coolfusion.merging.adapter_settings import APPLIED, IDLE
from tests.checkpoints import write_adapter

peft = pytest.importorskip("peft", reason="peft writes the adapters (pip install .[peft])")

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    **{"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
BASES: dict[str, Any] = {
    "untied": lambda: transformers.LlamaConfig(**SMALL, attention_bias=True),
    "tied": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
}
IDS = torch.arange(3, 35)[None]
EVERYWHERE = ["q_proj", "v_proj", "down_proj"]
# A name, the base, settings of peft, and for those that are refused what the message says.
CASES: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("plain", "untied", {"r": 4, "lora_alpha": 3}, None),
    ("rank-stabilised", "untied", {"r": 4, "use_rslora": True}, None),
    (
        "patterns",
        "untied",
        {"rank_pattern": {"q_proj": 2, "^model.layers.1": 3}, "alpha_pattern": {"layers.0.*": 16}},
        None,
    ),
    ("expression", "untied", {"target_modules": r".*layers\.1\..*(q_proj|up_proj)"}, None),
    ("all-linear", "untied", {"target_modules": "all-linear"}, None),
    ("all-linear-tied", "tied", {"target_modules": "all-linear"}, None),
    ("excluded", "untied", {"exclude_modules": ["model.layers.0.self_attn.q_proj"]}, None),
    ("layers", "untied", {"layers_to_transform": [1], "layers_pattern": "layers"}, None),
    ("bias-all", "untied", {"bias": "all"}, None),
    ("bias-of-adapted", "untied", {"bias": "lora_only"}, None),
    ("lora-bias", "untied", {"target_modules": ["q_proj"], "lora_bias": True}, None),
    ("lora-bias-alone", "tied", {"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias"),
    ("dropout", "untied", {"lora_dropout": 0.3, "task_type": "CAUSAL_LM"}, None),
    ("whole-head", "untied", {"modules_to_save": ["lm_head"]}, None),
    ("whole-norm", "untied", {"modules_to_save": ["norm", "embed_tokens"]}, None),
    ("own-head", "tied", {"modules_to_save": ["lm_head"]}, None),
    ("own-head-and-embedding", "tied", {"modules_to_save": ["lm_head", "embed_tokens"]}, None),
    ("own-embedding", "tied", {"modules_to_save": ["embed_tokens"]}, "without changing the head"),
    (
        "tied-embedding",
        "tied",
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        None,
    ),
    ("embedding", "untied", {"target_modules": ["embed_tokens", "q_proj"]}, None),
    ("head", "untied", {"target_modules": ["lm_head", "q_proj"]}, None),
    (
        "embedding-of-tied",
        "tied",
        {"target_modules": ["embed_tokens"]},
        "embed_tokens.* it is tied",
    ),
    ("head-of-tied", "tied", {"target_modules": ["lm_head"]}, "lm_head.* it is tied"),
    (
        "both-of-tied",
        "tied",
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        "it is tied",
    ),
    ("conv1d", "gpt2", {"target_modules": ["c_attn", "c_proj"]}, None),
    ("conv1d-said", "gpt2", {"target_modules": ["c_proj"], "fan_in_fan_out": True}, None),
    ("linear-said-other", "untied", {"fan_in_fan_out": True}, None),
    ("positions", "gpt2", {"target_modules": ["wpe", "c_fc"]}, None),
    *(
        (f"start-{start}", "untied", {"init_lora_weights": start}, None)
        for start in (True, False, "gaussian", "orthogonal", "eva", "mica")
    ),
    *(
        (f"start-{start}", "untied", {"init_lora_weights": start}, "init_lora_weights")
        for start in ("pissa", "pissa_niter_4", "olora", "PISSA", "corda", "loftq", "lora_ga")
    ),
    ("dora", "untied", {"use_dora": True}, "use_dora"),
    ("tokens", "untied", {"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
    ("parameters", "untied", {"target_parameters": ["q_proj.weight"]}, "target_parameters"),
    ("replicated", "untied", {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ("invoked", "untied", {"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens"),
    ("qalora", "untied", {"use_qalora": True}, "use_qalora"),
    ("megatron", "untied", {"megatron_config": {"tensor_parallel": 2}}, "megatron_config"),
    ("arrow", "untied", {"arrow_config": {"top_k": 2}}, "arrow_config"),
    ("kasa", "untied", {"kasa_config": {"beta": 0.1}}, "kasa_config"),
    ("velora", "untied", {"velora_config": {"num_groups": 2}}, "velora_config"),
    ("monteclora", "untied", {"monteclora_config": {"x": 1}}, "monteclora_config"),
    ("bdlora", "untied", {"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    ("newer", "untied", {"a_setting_of_tomorrow": "on"}, "a_setting_of_tomorrow"),
]
# Settings that peft would not write for a small model; they are put into what it wrote.
EDITED = frozenset(
    (
        *("layer_replication", "alora_invocation_tokens", "use_qalora", "megatron_config"),
        *("arrow_config", "kasa_config", "velora_config", "monteclora_config", "use_bdlora"),
        *("a_setting_of_tomorrow", "target_parameters"),
    )
)
EDITED_STARTS = ("PISSA", "corda", "loftq", "lora_ga")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, config in BASES.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config())
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.3)
        folders[name] = tmp_path_factory.mktemp("base") / name
        model.save_pretrained(folders[name])
    return folders


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def written(base: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """An adapter as peft writes it, with numbers as training would leave them."""
    edited = {key: value for key, value in settings.items() if key in EDITED}
    if settings.get("init_lora_weights") in EDITED_STARTS:
        edited["init_lora_weights"] = settings["init_lora_weights"]
    asked = {key: value for key, value in settings.items() if key not in edited}
    kept = {"target_modules": EVERYWHERE, **asked}
    torch.manual_seed(1)
    model = peft.get_peft_model(loaded(base), peft.LoraConfig(**kept))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **edited}))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("base", "settings", "refusal"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_an_adapter_means_what_it_means_to_peft(
    tmp_path: Path, bases: dict[str, Path], base: str, settings: dict[str, Any], refusal: str | None
) -> None:
    folder = written(bases[base], tmp_path / "adapter", settings)
    node = Merge("linear", (Adapter(folder, bases[base]),))
    if refusal is not None:
        with pytest.raises(LoadError, match=refusal):
            merge(node, tmp_path / "out")
        return
    ours = logits(loaded(merge(node, tmp_path / "out")))
    adapted = peft.PeftModel.from_pretrained(loaded(bases[base]), folder).eval()
    theirs = logits(adapted)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(ours, logits(adapted.merge_and_unload()), atol=1e-4)
    assert not torch.allclose(ours, logits(loaded(bases[base])), atol=1e-2)


@pytest.mark.filterwarnings("ignore")
def test_a_copy_of_the_base_in_an_adapter_counts(tmp_path: Path, bases: dict[str, Path]) -> None:
    """With an embedding peft stores what lies below it, which need not be the base's own."""
    settings = {"target_modules": ["embed_tokens"]}
    folder = written(bases["untied"], tmp_path / "adapter", settings)
    tensors = load_file(folder / "adapter_model.safetensors")
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    tensors[key] = torch.randn_like(tensors[key])
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    output = merge(Merge("linear", (Adapter(folder, bases["untied"]),)), tmp_path / "out")
    theirs = peft.PeftModel.from_pretrained(loaded(bases["untied"]), folder).eval()
    assert torch.allclose(logits(loaded(output)), logits(theirs), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", ["untied", "tied"])
@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["whole", "whole-and-tied", "beside", "low-rank"],
)
def test_tokens_that_were_added_come_with_the_adapter(
    tmp_path: Path, bases: dict[str, Path], base: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    model = loaded(bases[base])
    model.resize_token_embeddings(SMALL["vocab_size"] + 3)
    resized = tmp_path / "resized"
    model.save_pretrained(resized)
    model.name_or_path = str(bases[base])  # the one without the tokens
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(**{"target_modules": EVERYWHERE, **settings})
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    node = Merge("linear", (Adapter(tmp_path / "adapter", bases[base]),))
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    if base == "tied" and "target_modules" in settings:
        with pytest.raises(LoadError, match="it is tied"):
            merge(node, tmp_path / "out")
        return
    if base == "untied" and not any("lm_head" in key for key in held):
        with pytest.raises(LoadError, match="does not hold all"):
            merge(node, tmp_path / "out")
        return
    ours = loaded(merge(node, tmp_path / "out"))
    assert ours.config.vocab_size == SMALL["vocab_size"] + 3
    theirs = logits(peft.PeftModel.from_pretrained(loaded(resized), tmp_path / "adapter").eval())
    assert theirs.shape[-1] == SMALL["vocab_size"] + 3
    assert torch.allclose(logits(ours), theirs, atol=1e-4)


@pytest.mark.parametrize("kind", [str(kind.value) for kind in peft.PeftType if kind != "LORA"])
def test_other_types_of_peft_are_refused_by_name(
    tmp_path: Path, bases: dict[str, Path], kind: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", {"x": torch.ones(1)}, peft_type=kind)
    with pytest.raises(LoadError, match=f"peft_type '{kind}'"):
        merge(Merge("linear", (Adapter(folder, bases["untied"]),)), tmp_path / "out")


def test_every_setting_of_peft_has_a_case() -> None:
    tried = {key for _, _, settings, _ in CASES for key in settings}
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields - tried - IDLE - {"peft_type"} == set()
    assert APPLIED - fields == set()
