"""Opening checkpoints and adapters: what is read, and what is refused and why."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coolfusion.documents import shown
from coolfusion.errors import LoadError, UsageError
from coolfusion.merging import Adapter, Merge, MergeRecipe, open_recipe
from coolfusion.merging.adapters import base_of, open_adapted
from coolfusion.merging.architecture import architecture_of, full_settings
from coolfusion.merging.stored import open_stored
from tests.checkpoints import (
    VOCABULARY,
    WIDTH,
    llama_tensors,
    write_adapter,
    write_checkpoint,
    write_llama,
)

EMBEDDING = "model.embed_tokens.weight"
QUERY = "model.layers.1.self_attn.q_proj"


def merged(*models: Path | Adapter, **options: Any) -> Any:
    return open_recipe(MergeRecipe(Merge("linear", tuple(models)), **options))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_tensors_come_from_their_shards(tmp_path: Path, num_shards: int) -> None:
    tensors = llama_tensors(1)
    checkpoint = open_stored(write_checkpoint(tmp_path / "a", tensors, num_shards=num_shards))
    assert set(checkpoint.about.infos) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.read(name), tensor)
        assert checkpoint.about.infos[name].shape == tuple(tensor.shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = llama_tensors(1, dtype=dtype)
    checkpoint = open_stored(write_checkpoint(tmp_path / "a", tensors))
    assert torch.equal(checkpoint.read(EMBEDDING), tensors[EMBEDDING])
    size = math.prod(tensors[EMBEDDING].shape) * dtype.itemsize
    assert checkpoint.about.infos[EMBEDDING].num_bytes == size


def test_a_missing_shard_is_named_with_a_tensor(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(LoadError, match=r"model-00002-of-00003.safetensors.*tensor \"model"):
        open_stored(folder)


def test_an_index_of_another_checkpoint_is_noticed(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["extra"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r'"extra" is not in'):
        open_stored(folder)
    index["weight_map"]["extra"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match="no usable weight_map"):
        open_stored(folder)


@pytest.mark.parametrize(
    "shard",
    [
        *("../elsewhere.safetensors", "..", ".", "", "a/b.safetensors", "./a.safetensors"),
        *("/etc/passwd", "C:\\a.safetensors", "..\\a", "a\0b", "a\nb", 7, None, ["a"]),
    ],
)
def test_shards_are_named_by_nothing_but_a_file_name(tmp_path: Path, shard: Any) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=2)
    (tmp_path / "elsewhere.safetensors").write_bytes(
        (folder / "model-00001-of-00002.safetensors").read_bytes()
    )
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][EMBEDDING] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r"index.json\" has no usable weight_map"):
        open_stored(folder)


WEIGHTS = ("model.safetensors", "config.json", "tokenizer.json")


@pytest.mark.parametrize("name", WEIGHTS)
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_llama(tmp_path / "a", 1)
    secret = tmp_path / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    with pytest.raises(LoadError, match=rf"{name}\" is a link that leads out of .*secret\""):
        open_stored(folder)
    secret.unlink()
    with pytest.raises(LoadError, match=r"leads nowhere|Too many levels"):
        open_stored(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(name)  # to itself
    with pytest.raises(LoadError, match=r"leads nowhere|Too many levels"):
        open_stored(folder)


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = write_llama(tmp_path / "a", 1)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(LoadError, match=rf"{name}\": it is a named pipe"):
        open_stored(folder)


def test_shards_and_adapters_are_held_to_the_same(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoadError, match=r"00002-of-00002.safetensors\" is a link"):
        open_stored(folder)
    base = open_stored(write_llama(tmp_path / "b", 1))
    lora = write_adapter(tmp_path / "lora", FACTORS)
    (lora / "adapter_model.safetensors").rename(tmp_path / "factors")
    (lora / "adapter_model.safetensors").symlink_to(tmp_path / "factors")
    with pytest.raises(LoadError, match=r"adapter_model.safetensors\" is a link"):
        open_adapted(lora, base)


def test_links_inside_a_folder_and_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    """The hub's cache keeps files as blobs, and snapshots of links to them."""
    folder = write_llama(tmp_path / "models--org--name" / "snapshots" / "abc", 1)
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    assert len(open_stored(folder).about.infos) == len(llama_tensors(1))
    (tmp_path / "link").symlink_to(folder)
    assert len(open_stored(tmp_path / "link").about.infos) == len(llama_tensors(1))
    other = write_llama(tmp_path / "b", 1)
    (other / "model.safetensors").rename(other / "weights")
    (other / "model.safetensors").symlink_to("weights")
    assert len(open_stored(other).about.infos) == len(llama_tensors(1))


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    folder = write_llama(tmp_path / "a", 1)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(LoadError, match=r"model.safetensors.*cut short"):
        open_stored(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_with_nan_is_refused_by_name(tmp_path: Path, value: float) -> None:
    tensors = llama_tensors(1)
    tensors["model.norm.weight"][2] = value
    checkpoint = open_stored(write_checkpoint(tmp_path / "a", tensors))
    with pytest.raises(LoadError, match=r'"model.norm.weight".* 1 of 4 values'):
        checkpoint.read("model.norm.weight")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_llama(tmp_path / "a", 1)
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(LoadError, match=f"{name}, a pickle"):
        open_stored(folder)


def test_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="There is no folder"):
        open_stored(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match=r"there is no config\.json"):
        open_stored(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(LoadError, match=r"Cannot read .*config.json"):
        open_stored(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("[]")
    with pytest.raises(LoadError, match="holds no JSON object"):
        open_stored(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(LoadError, match="holds no weights"):
        open_stored(tmp_path / "empty")
    with pytest.raises(LoadError, match="is a file"):
        open_stored(tmp_path / "empty" / "config.json")


def test_a_hub_id_is_fetched_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_llama(tmp_path / "fetched", 1)
    asked: list[tuple[str, list[str]]] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("coolfusion.merging.stored.snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    assert open_stored("org/model").about.label == "org/model"
    assert asked[0][0] == "org/model"
    assert not any("bin" in glob or "pt" in glob for glob in asked[0][1])

    def refuse(name: str, allow_patterns: list[str]) -> str:
        raise OSError("offline")

    monkeypatch.setattr("coolfusion.merging.stored.snapshot_download", refuse)
    with pytest.raises(LoadError, match="offline"):
        open_stored("org/model")


def test_quantised_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 1, quantization_config={"bits": 4})
    with pytest.raises(LoadError, match="quantised"):
        open_stored(folder)
    tensors = llama_tensors(1)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    with pytest.raises(LoadError, match=r'"model.norm.weight".*F8_E4M3'):
        open_stored(write_checkpoint(tmp_path / "b", tensors))


def test_a_tied_head_is_dropped_when_it_is_a_copy(tmp_path: Path) -> None:
    tensors = llama_tensors(1)
    copy = {**tensors, "lm_head.weight": tensors[EMBEDDING].clone()}
    about = open_stored(write_checkpoint(tmp_path / "a", copy, tie_word_embeddings=True)).about
    assert about.ties == {"lm_head.weight": EMBEDDING}
    assert "lm_head.weight" not in about.infos
    # Where they differ, transformers does not tie either, whatever the configuration says.
    copy["lm_head.weight"][0] += 1
    about = open_stored(write_checkpoint(tmp_path / "b", copy, tie_word_embeddings=True)).about
    assert about.ties == {}
    assert "lm_head.weight" in about.infos


def test_tied_and_untied_merge_into_untied(tmp_path: Path) -> None:
    one = llama_tensors(1)
    other = llama_tensors(2, tied=False)
    checkpoint = merged(
        write_checkpoint(tmp_path / "a", one), write_checkpoint(tmp_path / "b", other)
    )
    assert checkpoint.about.config["tie_word_embeddings"] is False
    head = checkpoint.read("lm_head.weight").float()
    assert torch.allclose(head, (one[EMBEDDING] + other["lm_head.weight"]) / 2)
    both = merged(tmp_path / "a", tmp_path / "a")
    assert both.about.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in both.about.infos


def test_whole_numbers_must_agree(tmp_path: Path) -> None:
    tensors = [llama_tensors(seed) for seed in (1, 2)]
    for each in tensors:
        each["model.mask"] = torch.tensor([True, False])
        each["model.steps"] = torch.tensor(3)
    a, b = (write_checkpoint(tmp_path / str(i), each) for i, each in enumerate(tensors))
    checkpoint = merged(a, b)
    assert checkpoint.read("model.mask").tolist() == [True, False]
    assert checkpoint.read("model.steps").item() == 3
    tensors[1]["model.steps"] = torch.tensor(4)
    checkpoint = merged(a, write_checkpoint(tmp_path / "c", tensors[1]))
    with pytest.raises(UsageError, match=r'"model.steps".* differs'):
        checkpoint.read("model.steps")
    tensors[1]["model.steps"] = torch.tensor(4.0)
    with pytest.raises(UsageError, match=r'"model.steps" is torch.int64'):
        merged(a, write_checkpoint(tmp_path / "d", tensors[1]))


def test_a_buffer_that_some_lack_can_be_ignored(tmp_path: Path) -> None:
    old = llama_tensors(1)
    old["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    a, b = write_checkpoint(tmp_path / "a", old), write_llama(tmp_path / "b", 2)
    for order in ((a, b), (b, a)):
        with pytest.raises(UsageError, match=r'inv_freq" of ".*a" is missing from ".*b"'):
            merged(*order)
    assert len(merged(a, b, ignore=("*.inv_freq",)).about.infos) == len(llama_tensors(2))


def test_mixed_types_are_computed_wide_and_stored_as_the_first(tmp_path: Path) -> None:
    half = write_llama(tmp_path / "a", 1, dtype=torch.bfloat16)
    full = write_llama(tmp_path / "b", 2)
    assert merged(half, full).about.infos[EMBEDDING].dtype == torch.bfloat16
    assert merged(full, half).about.infos[EMBEDDING].dtype == torch.float32
    assert merged(half, full).read(EMBEDDING).dtype == torch.float32
    wanted = merged(half, full, dtype="float16").about
    assert wanted.infos[EMBEDDING].dtype == torch.float16
    assert wanted.config["dtype"] == "float16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "has model_type = 'llama'.* 'gpt2'"),
        ({"num_attention_heads": 4}, "num_attention_heads = 2"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta = 7.0"),
    ],
)
def test_other_architectures_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    a = write_llama(tmp_path / "a", 1, rope_theta=7.0)
    with pytest.raises(UsageError, match=message):
        merged(a, write_llama(tmp_path / "b", 2, **change))


def test_other_shapes_and_vocabularies_are_refused_by_tensor(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", 1)
    wide = llama_tensors(2)
    wide[EMBEDDING] = torch.zeros(len(VOCABULARY) + 2, WIDTH)
    with pytest.raises(UsageError, match=rf'"{EMBEDDING}" is \[14, 4\].* and \[16, 4\]'):
        merged(a, write_checkpoint(tmp_path / "b", wide))
    shuffled = write_llama(tmp_path / "c", 2, vocabulary=(*VOCABULARY[:-2], "l", "k"))
    with pytest.raises(UsageError, match=rf"Row 12 of tensor \"{EMBEDDING}\".*'k'.*'l'"):
        merged(a, shuffled)


def test_the_tokenizer_that_knows_more_is_kept(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", 1, vocabulary=VOCABULARY[:-1])
    b = write_llama(tmp_path / "b", 2)
    assert merged(a, b).about.tokenizer_folder == b
    assert merged(b, a).about.tokenizer_folder == b
    (a / "tokenizer.json").write_text('{"model": {"vocab": [["<s>", 0.0], ["</s>", -1.5]]}}')
    assert open_stored(a).about.vocabulary == {0: "<s>", 1: "</s>"}
    (a / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(LoadError, match="lists no vocabulary"):
        open_stored(a)


FACTORS = {
    f"{QUERY}.lora_A.weight": torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0]]),
    f"{QUERY}.lora_B.weight": torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]]),
}
PRODUCT = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 2, 0, 0]])


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ({}, 2 * PRODUCT),  # alpha 4, rank 2
        ({"use_rslora": True}, 4 / math.sqrt(2) * PRODUCT),
        ({"alpha_pattern": {"q_proj": 6}}, 3 * PRODUCT),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 6}}, 2 * PRODUCT),
        # peft believes the module, which is a Linear, and not the setting
        ({"fan_in_fan_out": True}, 2 * PRODUCT),
        # transformers knows no such class, so there is only the setting to believe
        ({"fan_in_fan_out": True, "base": "of-ones-own"}, 2 * PRODUCT.T),
    ],
)
def test_an_adapter_adds_its_scaled_product(
    tmp_path: Path, config: dict[str, Any], change: torch.Tensor
) -> None:
    settings = {"base": "llama", **config}
    base = open_stored(write_llama(tmp_path / "base", 1, model_type=settings.pop("base")))
    adapted = open_adapted(write_adapter(tmp_path / "lora", FACTORS, **settings), base)
    assert torch.allclose(
        adapted.read(QUERY + ".weight").float(), base.read(QUERY + ".weight") + change
    )
    assert torch.equal(adapted.read(EMBEDDING), base.read(EMBEDDING))
    assert len(adapted.about.files) == len(base.about.files) + 2


def test_an_adapter_of_embeddings_biases_and_whole_modules(tmp_path: Path) -> None:
    tensors = llama_tensors(1, tied=False)
    tensors[QUERY + ".bias"] = torch.zeros(WIDTH)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(WIDTH)
    base = open_stored(write_checkpoint(tmp_path / "base", tensors))
    down, up = torch.randn(2, len(VOCABULARY)), torch.randn(WIDTH, 2)
    head = torch.randn(len(VOCABULARY), WIDTH)
    lora = {
        **FACTORS,
        f"{QUERY}.lora_B.bias": torch.ones(WIDTH),
        "model.layers.0.self_attn.q_proj.base_layer.bias": torch.full((WIDTH,), 7.0),
        "model.embed_tokens.base_layer.weight": tensors[EMBEDDING] + 1,  # it counts, as for peft
        "model.embed_tokens.lora_embedding_A": down,
        "model.embed_tokens.lora_embedding_B": up,
        "lm_head.modules_to_save.weight": head,
    }
    adapted = open_adapted(write_adapter(tmp_path / "lora", lora), base)
    wanted = tensors[EMBEDDING] + 1 + 2 * (up @ down).T
    assert torch.allclose(adapted.read(EMBEDDING).float(), wanted, atol=1e-6)
    assert adapted.read(QUERY + ".bias").tolist() == [2.0] * WIDTH
    assert adapted.read("model.layers.0.self_attn.q_proj.bias").tolist() == [7.0] * WIDTH
    assert torch.equal(adapted.read("lm_head.weight").float(), head)


def test_a_small_change_is_not_rounded_away_before_it_is_scaled(tmp_path: Path) -> None:
    """Next to a 16-bit weight a task vector may be less than half of its last digit."""
    tensors = {name: torch.ones_like(t).bfloat16() for name, t in llama_tensors(1).items()}
    base = write_checkpoint(tmp_path / "base", tensors)
    tiny = {name: tensor / 1000 for name, tensor in FACTORS.items()}
    lora = write_adapter(tmp_path / "lora", tiny, base)
    merge = Merge("task_arithmetic", (lora,), base, parameters={"scale": 1e6})
    read = open_recipe(MergeRecipe(merge)).read(QUERY + ".weight")
    assert read[0, 0].item() == pytest.approx(1 + 2, rel=0.01)


def test_an_adapter_with_nan_is_refused_by_tensor(tmp_path: Path) -> None:
    base = open_stored(write_llama(tmp_path / "base", 1))
    down, up = FACTORS
    broken = {down: FACTORS[down] * math.nan, up: FACTORS[up]}
    adapted = open_adapted(write_adapter(tmp_path / "lora", broken), base)
    with pytest.raises(LoadError, match=rf"{down}\" in .* 8 of 8 values"):
        adapted.read(QUERY + ".weight")


def test_an_adapter_names_its_checkpoint_or_is_told(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", 1)
    named = write_adapter(tmp_path / "named", FACTORS, base)
    assert base_of(named) == str(base)
    told = Adapter(write_adapter(tmp_path / "told", FACTORS), base)
    assert torch.equal(
        merged(named).read(QUERY + ".weight"),
        open_recipe(MergeRecipe(Merge("linear", (told,)))).read(QUERY + ".weight"),
    )
    with pytest.raises(LoadError, match="does not say which checkpoint"):
        merged(tmp_path / "told")
    lost = write_adapter(tmp_path / "lost", FACTORS, "/nowhere/at/all")
    with pytest.raises(LoadError, match=r'belongs to "/nowhere/at/all".*--on'):
        merged(lost)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "is of peft_type 'IA3'"),
        ({"use_dora": True}, "uses use_dora"),
        ({"target_parameters": ["x"]}, "uses target_parameters"),
        ({"lora_alpha": None}, "has lora_alpha = None and rank 2"),
        ({"r": 3}, "has r = 3 .* rank 2"),
        ({"rank_pattern": {"q_proj": 5}}, "has r = 5"),
        ({"alpha_pattern": {"(": 5}}, "has as alpha_pattern no table of patterns"),
        ({"init_lora_weights": "pissa_niter_16"}, "has init_lora_weights = 'pissa_niter_16'"),
        ({"of_tomorrow": {"x": 1}}, "uses of_tomorrow = {'x': 1}"),
    ],
)
def test_adapters_that_are_no_low_rank_sum_are_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    base = open_stored(write_llama(tmp_path / "base", 1))
    with pytest.raises(LoadError, match=message):
        open_adapted(write_adapter(tmp_path / "lora", FACTORS, **config), base)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = open_stored(write_llama(tmp_path / "base", 1))
    down, up = FACTORS
    cases = {
        "has no partner": {down: FACTORS[down]},
        "which .* has not": {name.replace("q_proj", "z"): t for name, t in FACTORS.items()},
        "which is no part of a low-rank sum": {
            **FACTORS,
            f"{QUERY}.lora_magnitude_vector": torch.ones(WIDTH),
        },
        r"as if it were \[5, 4\]": {down: FACTORS[down], up: torch.zeros(5, 2)},
        r"\[4, 3\] times \[2, 4\], which is no product": {
            down: FACTORS[down],
            up: torch.zeros(WIDTH, 3),
        },
        r"\[4, 2, 1, 1\] times \[2, 4, 1, 1\]": {
            name: tensor[..., None, None].contiguous() for name, tensor in FACTORS.items()
        },
        "and rank 0 for": {f"{QUERY}.lora_B.bias": torch.ones(WIDTH)},
        "changes .* twice": {
            **FACTORS,
            f"{QUERY}.weight": torch.zeros(WIDTH, WIDTH),
        },
        "also the output head": {EMBEDDING: torch.zeros(len(VOCABULARY), WIDTH)},
    }
    for number, (message, tensors) in enumerate(cases.items()):
        with pytest.raises(LoadError, match=message):
            open_adapted(write_adapter(tmp_path / f"lora-{number}", tensors), base)
    lora = write_adapter(tmp_path / "pickled", FACTORS)
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(LoadError, match="a pickle"):
        open_adapted(lora, base)
    (lora / "adapter_model.bin").unlink()
    with pytest.raises(LoadError, match=r"holds no adapter_model.safetensors"):
        open_adapted(lora, base)
    save_file({"x": torch.zeros(1)}, lora / "adapter_model.safetensors")
    with pytest.raises(LoadError, match='changes "x"'):
        open_adapted(lora, base)


Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "settings",
    [
        *({"lora_alpha": value} for value in (math.nan, math.inf, 10**4000, "2", [2], None, True)),
        *({"r": value} for value in (math.nan, 3, "2", True, [2])),
        {"use_rslora": "false"},
        {"fan_in_fan_out": "no"},
        {"ensure_weight_tying": 1},
        {"modules_to_save": "embed_tokens"},
        {"modules_to_save": [["lm_head"]]},
        {"modules_to_save": 5},
        {"target_modules": ["proj", "k_proj"]},
        {"exclude_modules": ["self_attn.q_proj"]},
        *(
            {key: {pattern: 2}}
            for key in ("alpha_pattern", "rank_pattern")
            for pattern in ("(", "(.*)*x(.*)*y(.*)*z", "q{99999999999}", ".*.*.*.*.*.*x", "(" * 150)
        ),
    ],
    ids=shown,
)
def test_settings_of_adapters_edited_by_hand_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = write_llama(tmp_path / "base", 1)
    factors = {f"{Q_PROJ}.lora_A.weight": torch.ones(2, 4)}
    factors[f"{Q_PROJ}.lora_B.weight"] = torch.ones(4, 2)
    adapter = write_adapter(tmp_path / "adapter", factors, **{"r": 2, **settings})
    with pytest.raises(LoadError) as caught:
        merged(Adapter(adapter, base))
    assert next(iter(settings)) in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_factors_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", 1)
    factors = {
        f"{Q_PROJ}.lora_{side}{default}.weight": torch.ones(2, 4)
        if side == "A"
        else torch.ones(4, 2)
        for side in "AB"
        for default in ("", ".default")
    }
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=["q_proj"])
    with pytest.raises(LoadError, match="twice"):
        merged(Adapter(adapter, base))


def test_a_factor_that_is_a_lone_number_is_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", 1)
    factors = {f"{Q_PROJ}.lora_{side}.weight": torch.tensor(1.0) for side in "AB"}
    with pytest.raises(LoadError, match="rank 0"):
        merged(Adapter(write_adapter(tmp_path / "adapter", factors), base))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "qwen3", "gemma3"])
@pytest.mark.parametrize("count", ["num_hidden_layers", "n_layer", "num_local_experts"])
def test_counts_that_would_take_forever_to_list_are_not_listed(kind: str, count: str) -> None:
    config = {"model_type": kind, count: 10**10, "text_config": {count: 10**10}}
    assert architecture_of(config) is None
    assert full_settings(config) is None
