"""Checkpoints, recipes and outputs whose files are not what they seem."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coolfusion.errors import LoadError, UsageError
from coolfusion.merging import Adapter, Merge, MergeRecipe, merge, open_recipe, read_recipe
from tests.checkpoints import (
    llama_tensors,
    tensors_of,
    write_adapter,
    write_checkpoint,
    write_llama,
)

FACTORS = {
    "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4),
    "model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(4, 2),
}
READ = ["config.json", "tokenizer.json", "model.safetensors"]
COPIED = ["chat_template.jinja", "tokenizer_config.json", "modeling_x.py", "vocab.txt"]


def to_outside(path: Path) -> None:
    """A link to a file of the same content elsewhere."""
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    target = elsewhere / path.name
    target.write_bytes(path.read_bytes() if path.exists() else b"secret")
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def to_passwd(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def chain(path: Path) -> None:
    """A link to a link in the folder that leads out of it."""
    to_outside(path)
    path.rename(path.with_name("hop"))
    path.symlink_to("hop")


def dangling(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def to_pipe(path: Path) -> None:
    pipe(path.with_name("some pipe"))
    path.unlink(missing_ok=True)
    path.symlink_to("some pipe")


def to_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def to_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(".")


def a_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


WAYS: list[Callable[[Path], None]] = [
    *(to_outside, to_passwd, chain, dangling, loop, pipe, to_pipe, to_device, to_folder, a_socket)
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*READ, *COPIED])
def test_a_file_that_is_not_the_checkpoints_own_is_refused(
    tmp_path: Path, way: Callable[[Path], None], name: str
) -> None:
    folder = write_llama(tmp_path / "a", 1)
    way(folder / name)
    with pytest.raises(LoadError, match=name.replace(".", r"\.")):
        merge(Merge("linear", (folder,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "model-00002-of-00002.safetensors"]
)
def test_shards_and_their_index_likewise(
    tmp_path: Path, way: Callable[[Path], None], name: str
) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=2)
    way(folder / name)
    with pytest.raises(LoadError, match=name.replace(".", r"\.")):
        open_recipe(MergeRecipe(Merge("linear", (folder,))))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters_likewise(tmp_path: Path, way: Callable[[Path], None], name: str) -> None:
    base = write_llama(tmp_path / "base", 1)
    adapter = write_adapter(tmp_path / "lora", FACTORS, base)
    way(adapter / name)
    with pytest.raises(LoadError, match=r"lora"):
        open_recipe(MergeRecipe(Merge("linear", (Adapter(adapter, base),))))


def in_a_cache(folder: Path, hub: Path) -> Path:
    """The checkpoint as the hub's cache keeps it: every file a link into blobs."""
    snapshot = hub / "models--org--name" / "snapshots" / "0123abcd"
    blobs = hub / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        (blobs / f"{number:040x}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def test_the_hubs_cache_merges_as_a_folder_does(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=2)
    for name in COPIED:
        (folder / name).write_text("{}")
    snapshot = in_a_cache(folder, tmp_path / "hub")
    one = merge(Merge("linear", (folder,)), tmp_path / "one")
    other = merge(Merge("linear", (snapshot,)), tmp_path / "other")
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in other.iterdir())
    assert set(COPIED) < set(files)
    for name in set(files) - {"merge.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes()
        assert not (other / name).is_symlink()


def test_links_inside_a_checkpoint_and_folders_beside_its_files_are_ordinary(
    tmp_path: Path,
) -> None:
    folder = write_llama(tmp_path / "a", 1)
    (folder / "chat_template.jinja").symlink_to("template")
    (folder / "template").write_text("{{ messages }}")
    (folder / "tokenizer").mkdir()
    out = merge(Merge("linear", (folder,)), tmp_path / "out")
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (out / "tokenizer").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested more than 200 deep"),
        (b'{"a":' * 100_000, "nested more than 200 deep"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested more than 200 deep"),
        (b"\xff\xfe\x00", "Cannot read"),
        (b"", "Cannot read"),
        (b"[]", "holds no JSON object"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "."),
    ],
)
def test_json_that_is_none(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = write_llama(tmp_path / "a", 1, num_shards=2)
    (folder / name).write_bytes(content)
    with pytest.raises(LoadError, match=message):
        open_recipe(MergeRecipe(Merge("linear", (folder,))))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_huge_file_is_not_read(tmp_path: Path, name: str) -> None:
    folder = write_llama(tmp_path / "a", 1)
    with (folder / name).open("r+b") as file:
        file.truncate(10**9)  # sparse
    with pytest.raises(LoadError, match="more than 200,000,000 bytes"):
        open_recipe(MergeRecipe(Merge("linear", (folder,))))


@pytest.mark.parametrize("name", ["recipe.toml", "merge.json"])
def test_recipes_that_are_no_files(tmp_path: Path, name: str) -> None:
    for number, way in enumerate((pipe, to_pipe, dangling, loop, to_folder, a_socket)):
        folder = tmp_path / str(number)
        folder.mkdir()
        way(folder / name)
        with pytest.raises(UsageError, match=r"Cannot read the recipe|must be a path"):
            read_recipe(folder / name)
    for path in ("x" * 5_000 + name, f"a\0{name}", f"{name}/below/{name}", f"\ud800{name}"):
        with pytest.raises(UsageError, match=r"Cannot read the recipe|must be a path"):
            read_recipe(tmp_path / path)
    with (tmp_path / name).open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(UsageError, match="more than 2"):
        read_recipe(tmp_path / name)


def test_models_that_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    pipe(tmp_path / "pipe")
    loop(tmp_path / "loop")
    dangling(tmp_path / "dangling")
    for name in (
        "file",
        "pipe",
        "loop",
        "dangling",
        "none",
        "x" * 5_000,
        "a\0b",
        "\ud800",
        "file/x",
    ):
        with pytest.raises(UsageError):
            open_recipe(MergeRecipe(Merge("linear", (tmp_path / name,))))
        with pytest.raises(UsageError):
            open_recipe(MergeRecipe(Merge("linear", (str(tmp_path / name),))))


def test_outputs_that_can_be_no_folders(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "a", 1)
    pipe(tmp_path / "pipe")
    loop(tmp_path / "loop")
    dangling(tmp_path / "dangling")
    (tmp_path / "to a").symlink_to("a")
    for name in (
        "pipe",
        "loop",
        "dangling",
        "to a",
        "x" * 300,
        "a\0b",
        "a/config.json/x",
        "none/x",
    ):
        with pytest.raises(UsageError):
            merge(Merge("linear", (folder,)), tmp_path / name)
    assert not list(tmp_path.glob(".*"))


def test_numbers_that_json_lacks_are_written_as_transformers_reads_them(tmp_path: Path) -> None:
    limits = {"time_step_limit": [0.0, math.inf], "other": {"low": -math.inf, "none": math.nan}}
    folder = write_llama(tmp_path / "a", 1, **limits)
    out = merge(Merge("linear", (folder,)), tmp_path / "out")

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    for file in out.glob("*.json"):
        json.loads(file.read_text("utf-8"), parse_constant=refuse)
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert config["other"] == {"low": {"__float__": "-Infinity"}, "none": {"__float__": "NaN"}}
    again = merge(Merge("linear", (out,)), tmp_path / "again")
    assert (again / "config.json").read_bytes() == (out / "config.json").read_bytes()


NEEDED = [
    "*",
    "*.weight",
    "model.*",
    "[a-z]*",
    "*norm*",
    "*.layers.0.*",
    "model.embed_tokens.weight",
]


@pytest.mark.parametrize("glob", [*NEEDED, "lm_head.weight"])
def test_what_a_model_needs_is_not_left_out(tmp_path: Path, glob: str) -> None:
    tied = glob != "lm_head.weight"
    a = write_llama(tmp_path / "a", 1, tied=tied)
    b = write_llama(tmp_path / "b", 2)
    for models in ((a,), (a, b)):
        with pytest.raises(UsageError, match="ignore leaves out tensor"):
            merge(MergeRecipe(Merge("linear", models), ignore=(glob,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_what_a_model_does_without_is_left_out(tmp_path: Path) -> None:
    tensors = llama_tensors(1)
    extra = {
        "model.rotary_emb.inv_freq": torch.ones(2),
        "h.0.attn.bias": torch.ones(1, 1, 3, 3),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "model.position_ids": torch.arange(3),
    }
    a = write_checkpoint(tmp_path / "a", {**tensors, **extra, "v_head.weight": torch.ones(1, 4)})
    b = write_llama(tmp_path / "b", 2)
    globs = (*extra, "v_head.*", "matches nothing")
    recipe = MergeRecipe(Merge("linear", (a, b)), ignore=globs)
    assert tensors_of(merge(recipe, tmp_path / "out")).keys() == tensors.keys()


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    empty = write_llama(tmp_path / "a", 1)
    from safetensors.torch import save_file

    save_file({}, empty / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="no tensors"):
        merge(Merge("linear", (empty,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
