"""Writing a merge: whole or not at all, streaming, and the same bytes every time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import coolfusion
from coolfusion.errors import CoolfusionError, LoadError, UsageError
from coolfusion.merging import (
    METHODS,
    Merge,
    MergeProgress,
    MergeRecipe,
    merge,
    read_recipe,
    safetensors_file,
    stored,
)
from coolfusion.merging import folder as folder_module
from tests.checkpoints import llama_tensors, tensors_of, write_checkpoint, write_llama

ROOT = Path(coolfusion.__file__).parents[1]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_llama(tmp_path / "a", 1, num_shards=2), write_llama(tmp_path / "b", 2)


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name not in ("a", "b", "base"))


def test_a_merge_is_a_checkpoint_with_its_origin(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    output = merge(Merge("linear", pair, weights=(1, 3)), tmp_path / "out")
    a, b = (llama_tensors(seed) for seed in (1, 2))
    got = tensors_of(output)
    assert set(got) == set(a)
    for name, tensor in got.items():
        assert torch.equal(tensor, ((a[name].double() + 3 * b[name].double()) / 4).float())
    assert {file.name for file in output.iterdir()} == {
        *("model.safetensors", "config.json", "generation_config.json", "merge.json"),
        "tokenizer.json",
    }
    config = json.loads((output / "config.json").read_text())
    assert config == json.loads((pair[0] / "config.json").read_text())
    origin = json.loads((output / "merge.json").read_text())
    assert origin["versions"]["coolfusion"] == coolfusion.__version__
    assert len(origin["inputs"]) == 3 + 2 + 2  # shards, configurations, tokenizers
    assert read_recipe(output / "merge.json").merge.weights == (1, 3)


@pytest.mark.parametrize("max_bytes", [1, 200, 10**9])
def test_shards_hold_everything_once_and_stay_small(
    tmp_path: Path, pair: tuple[Path, Path], max_bytes: int
) -> None:
    output = merge(Merge("linear", pair[:1]), tmp_path / "out", max_shard_bytes=max_bytes)
    files = sorted(output.glob("*.safetensors"))
    wanted = llama_tensors(1)
    got = tensors_of(output)
    assert set(got) == set(wanted)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= max_bytes
    if len(files) > 1:
        index = json.loads((output / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {
            name: file.name for file in files for name in load_file(file)
        }
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in wanted.values())
        again = merge(Merge("linear", (output,)), tmp_path / "again")
        assert all(torch.equal(t, wanted[name]) for name, t in tensors_of(again).items())
    else:
        assert files[0].name == "model.safetensors"


def test_every_type_and_shape_is_written_as_safetensors_reads_it(tmp_path: Path) -> None:
    tensors = {
        "truth": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.randn(3, 1).half(),
        "brain": torch.randn(2, 3).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "na\u00efve.w": torch.randn(1),
    }
    folder = write_checkpoint(tmp_path / "a", tensors)
    got = tensors_of(merge(Merge("linear", (folder, folder)), tmp_path / "out"))
    assert {name: t.dtype for name, t in got.items()} == {n: t.dtype for n, t in tensors.items()}
    assert all(torch.equal(got[name], tensors[name]) for name in tensors)


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    base = write_llama(tmp_path / "base", 3)

    def hashes(name: str, seed: int) -> dict[str, bytes]:
        output = merge(Merge("dare", pair, base, seed=seed), tmp_path / name)
        return {file.name: file.read_bytes() for file in sorted(output.iterdir())}

    first = hashes("first", 1)
    assert hashes("again", 1) == first
    assert hashes("other", 2)["model.safetensors"] != first["model.safetensors"]


def test_progress_counts_tensors_and_bytes(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    seen: list[MergeProgress] = []
    merge(Merge("linear", pair), tmp_path / "out", progress=seen.append)
    tensors = llama_tensors(1)
    assert [step.num_tensors for step in seen] == list(range(1, len(tensors) + 1))
    assert {step.name for step in seen} == set(tensors)
    assert seen[-1].num_bytes == seen[-1].all_bytes == sum(t.nbytes for t in tensors.values())


@pytest.mark.parametrize("name", METHODS)
def test_few_tensors_are_alive_at_a_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many layers there are, what was read for one tensor is gone before the next."""
    method = METHODS[name]
    models = [write_llama(tmp_path / str(seed), seed, num_layers=20) for seed in (1, 2)]
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    peak = 0
    read = safetensors_file.read_tensor

    def counted(path: Path, name: str) -> torch.Tensor:
        nonlocal peak
        tensor = read(path, name)
        alive.add(tensor)
        peak = max(peak, len(alive))
        return tensor

    monkeypatch.setattr(stored, "read_tensor", counted)
    number = method.num_models or 2
    base = write_llama(tmp_path / "base", 3, num_layers=20) if method.needs_base else None
    merge(Merge(name, tuple(models[:number]), base), tmp_path / "out")
    assert 1 <= peak <= number + 1 + (base is not None)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_a_merge_in_a_small_process_stays_small(tmp_path: Path) -> None:
    """Two models of 40 MB each are merged within a few tensors of 1 MB."""
    tensors = {f"model.layers.{n}.w": torch.full((512, 512), float(n)) for n in range(40)}
    for name in "ab":
        write_checkpoint(tmp_path / name, tensors)
    code = f"""
from pathlib import Path
from coolfusion.merging import Merge, merge
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
merge(Merge("linear", ({str(tmp_path / "small")!r},)), {str(tmp_path / "warm")!r})
before = peak()
merge(Merge("linear", ({str(tmp_path / "a")!r}, {str(tmp_path / "b")!r})), {str(tmp_path / "out")!r})
print(peak() - before)
"""
    write_llama(tmp_path / "small", 1)
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 24
    assert torch.equal(
        tensors_of(tmp_path / "out")["model.layers.7.w"], tensors["model.layers.7.w"]
    )


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, OSError(errno.EIO, "bad")])
def test_whatever_stops_a_merge_nothing_is_left(
    tmp_path: Path, pair: tuple[Path, Path], failure: Any
) -> None:
    def stop(progress: MergeProgress) -> None:
        if progress.num_tensors == 4:
            raise failure

    with pytest.raises((KeyboardInterrupt, RuntimeError, CoolfusionError)):
        merge(Merge("linear", pair), tmp_path / "out", progress=stop, max_shard_bytes=100)
    assert left_over(tmp_path) == []


def test_a_disk_that_is_full_before_and_on_the_way(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = folder_module.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.shutil, "disk_usage", lambda path: usage._replace(free=100))
        with pytest.raises(UsageError, match="GB free and the merge takes"):
            merge(Merge("linear", pair), tmp_path / "out")
    assert left_over(tmp_path) == []


def test_a_write_that_the_system_refuses(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """A limit on the size of files is as good as a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        with pytest.raises(CoolfusionError, match=r'Writing ".*out" failed: .*Nothing was left'):
            merge(Merge("linear", pair), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_over(tmp_path) == []


def test_an_existing_folder_is_replaced_only_when_asked(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    output = tmp_path / "out"
    merge(Merge("linear", pair[:1]), output)
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="exists and is not empty"):
        merge(Merge("linear", pair), output)

    def stop(progress: MergeProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(Merge("linear", pair), output, overwrite=True, progress=stop)
    assert (output / "model.safetensors").read_bytes() == before
    merge(Merge("linear", pair), output, overwrite=True)
    assert (output / "model.safetensors").read_bytes() != before
    assert left_over(tmp_path) == ["out"]


def test_what_no_merge_wrote_is_never_replaced(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    merge(Merge("linear", pair), folder)  # empty: there is nothing to lose
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not written by an earlier merge"):
        merge(Merge("linear", pair), tmp_path / "other", overwrite=True)
    for model in (folder, folder / "."):
        with pytest.raises(UsageError, match="one of the checkpoints to be merged"):
            merge(Merge("linear", (folder, pair[0])), model, overwrite=True)


def unwritable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    return {
        "no parent": (tmp_path / "none" / "out", "there is no folder"),
        "a file": (tmp_path / "file", "it is a file"),
        "a link": (tmp_path / "link", "it is a link"),
        "below a file": (tmp_path / "file" / "out", "there is no folder"),
        "a name too long": (tmp_path / ("x" * 254), "name too long"),
    }


@pytest.mark.parametrize(
    "case", ["no parent", "a file", "a link", "below a file", "a name too long"]
)
def test_outputs_that_cannot_be_written(tmp_path: Path, pair: tuple[Path, Path], case: str) -> None:
    output, message = unwritable(tmp_path)[case]
    with pytest.raises(UsageError, match=f"(?i){message}"):
        merge(Merge("linear", pair), output)


def test_a_folder_without_permission(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module.os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="permission is denied"):
        merge(Merge("linear", pair), tmp_path / "out")


def test_values_too_large_for_their_type_are_refused(tmp_path: Path) -> None:
    tensors = {name: t.half() for name, t in llama_tensors(1).items()}
    tensors["model.norm.weight"][0] = 60000
    a = write_checkpoint(tmp_path / "a", tensors)
    base = write_checkpoint(tmp_path / "base", {name: t * 0 for name, t in tensors.items()})
    recipe = Merge("task_arithmetic", (a,), base, parameters={"scale": 2})
    with pytest.raises(UsageError, match=r'"model.norm.weight" has values up to 1.2e\+05'):
        merge(recipe, tmp_path / "out")
    merge(MergeRecipe(recipe, dtype="float32"), tmp_path / "out")
    assert left_over(tmp_path) == ["out"]


def test_broken_inputs_are_found_on_the_way_and_leave_nothing(tmp_path: Path) -> None:
    tensors = llama_tensors(1)
    tensors["model.norm.weight"][0] = float("nan")
    broken = write_checkpoint(tmp_path / "a", tensors)
    with pytest.raises(LoadError, match="NaN"):
        merge(Merge("linear", (write_llama(tmp_path / "b", 2), broken)), tmp_path / "out")
    assert left_over(tmp_path) == []
    with pytest.raises(UsageError, match="A shard of 0 bytes"):
        merge(Merge("linear", (tmp_path / "b",)), tmp_path / "out", max_shard_bytes=0)


def tiny_model(kind: str, tied: bool, seed: int) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    common = {"vocab_size": 32, "tie_word_embeddings": tied}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=16, **common)
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        **common,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_transformers_loads_a_merge_and_computes_with_it(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    models = [tiny_model(kind, tied, seed).eval() for seed in (1, 2)]
    for name, model in zip("ab", models, strict=True):
        model.save_pretrained(tmp_path / name, max_shard_size="2KB")
    output = merge(
        Merge("linear", (tmp_path / "a", tmp_path / "b")), tmp_path / "out", max_shard_bytes=2000
    )
    got, info = transformers.AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        for mine, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
            mine.add_(theirs).div_(2)
        ids = torch.tensor([[1, 5, 9, 2]])
        assert torch.allclose(got(ids).logits, models[0](ids).logits, atol=1e-5)
