"""What does a streaming merge cost, and does another implementation get the same tensors?

Bad news would be a peak that grows with the model (compare the two depths), a time far above
that of loading everything at once, or outputs that differ from mergekit's by more than rounding.
Peaks are the process's own (VmHWM), so this runs on Linux only. The error is against the same
merge computed and stored in float64. Last, what the min-max threshold of MoD's released code takes
from the expert.

    python -m benchmarks.merging_cost [--mergekit PYTHON]

PYTHON is the interpreter of an environment with mergekit in it; without it those rows are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks._results import finish, table
from benchmarks.minmax_threshold import minmax_threshold
from coolfusion.builtin import builtin_paths
from coolfusion.merging import METHODS, Merge, MergeRecipe, merge
from coolfusion.merging.checkpoint import Checkpoint
from coolfusion.merging.formulas import trimmed
from coolfusion.merging.stored import open_stored

PEAK = """
import time; begun = time.perf_counter()
{work}
status = open("/proc/self/status").read()
print("\\n", time.perf_counter() - begun, int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""
OURS = """
from coolfusion.merging import Merge, merge
merge(Merge({method!r}, {models!r}, {base!r}), {output!r})
"""
WHOLE = """
import torch
from transformers import AutoModelForCausalLM
first, *others = [AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in {models!r}]
with torch.no_grad():
    for tensor, *rest in zip(*(model.parameters() for model in (first, *others))):
        total = tensor.float()
        for other in rest:
            total = total + other.float()
        tensor.copy_(total / (1 + len(rest)))
first.save_pretrained({output!r})
"""
THEIRS = """
import sys
from mergekit.scripts.run_yaml import main
try:
    main([{config!r}, {output!r}, "--quiet", "--no-copy-tokenizer", "--no-write-model-card"])
except SystemExit as stop:
    assert not stop.code, stop.code
"""
# Our parameters' names and values in mergekit's terms.
SAME: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "linear": ("linear", {"weight": 1.0}, {}),
    "slerp": ("slerp", {}, {"t": 0.5}),
    "task_arithmetic": ("task_arithmetic", {"weight": 1.0}, {"normalize": False}),
    "ties": ("ties", {"weight": 1.0, "density": 0.2}, {"normalize": True}),
    "dare": (
        "dare_linear",
        {"weight": 1.0, "density": 0.5},
        {"normalize": False, "rescale": False},
    ),
}


def make_models(folder: Path, num_layers: int) -> dict[str, str]:
    """A random base and two models near it, in bfloat16 shards of at most 50 MB."""
    config = Qwen2Config(
        vocab_size=16_000,
        hidden_size=640,
        intermediate_size=1792,
        num_hidden_layers=num_layers,
        num_attention_heads=10,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(config).to(torch.bfloat16)
    paths = {name: str(folder / f"{name}-{num_layers}") for name in ("base", "a", "b")}
    base.save_pretrained(paths["base"], max_shard_size="50MB")
    for name in ("a", "b"):
        model = Qwen2ForCausalLM(config)
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), base.parameters(), strict=True):
                mine.copy_(theirs.float() + 0.001 * torch.randn_like(mine))
        model.to(torch.bfloat16).save_pretrained(paths[name], max_shard_size="50MB")
    return paths


def measured(python: str, work: str) -> dict[str, float]:
    """Seconds and peak megabytes of a piece of work in a process of its own."""
    code = PEAK.format(work=work)
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = done.stdout.split("\n")[-2].split()
    return {"seconds": float(seconds), "peak_mb": float(peak)}


def mergekit_config(method: str, paths: Mapping[str, str], dtype: str, file: Path) -> Path:
    """The same merge as a configuration of mergekit (JSON is YAML), computed in ``dtype``."""
    name, each, shared = SAME[method]
    config: dict[str, Any] = {"merge_method": name, "parameters": shared}
    config |= {"dtype": dtype, "out_dtype": "bfloat16"}
    models = [{"model": paths[key], "parameters": each} for key in ("a", "b")]
    if name == "slerp":
        config["base_model"] = paths["a"]
    elif name != "linear":
        config["base_model"] = paths["base"]
    file.write_text(json.dumps({**config, "models": models}), encoding="utf-8")
    return file


def distance(got: Checkpoint, exact: Path) -> dict[str, float]:
    """Largest difference from ``exact`` as rounded, and the share of entries that differ."""
    largest, wrong, count = 0.0, 0, 0
    for name, tensor in tensors(exact):
        found = got.read(name)
        apart = (found.double() - tensor.to(found.dtype).double()).abs()
        largest = max(largest, float(apart.max()))
        wrong, count = wrong + int((apart > 0).sum()), count + found.numel()
    return {"largest": largest, "misrounded": wrong / count}


def undecided(got: Checkpoint, exact: Path, paths: Mapping[str, str]) -> float:
    """Of the entries in which two TIES merges differ, the share that the paper leaves open.

    Either some task vector is as large there as the last one that is kept, so that there are
    more candidates than places, or the election is tied.
    """
    base, *models = (open_stored(paths[name]) for name in ("base", "a", "b"))
    num_open = num_different = 0
    for name, tensor in tensors(exact):
        different = got.read(name) != tensor.to(torch.bfloat16)
        vectors = [model.read(name).double() - base.read(name).double() for model in models]
        kept = [trimmed(vector, 0.2) for vector in vectors]
        edges = [vector.abs()[vector != 0].min() for vector in kept]
        is_open = (kept[0] + kept[1] == 0) & (kept[0] != 0)
        for vector, edge in zip(vectors, edges, strict=True):
            is_open |= vector.abs() == edge
        num_open += int((different & is_open).sum())
        num_different += int(different.sum())
    return num_open / num_different


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a folder, one at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                yield name, file.get_tensor(name)


def compare(folder: Path, paths: Mapping[str, str], mergekit: str | None) -> list[dict[str, Any]]:
    """One row per method and implementation."""
    rows = []
    for method in SAME:
        base = paths["base"] if METHODS[method].needs_base else None
        recipe = Merge(method, (paths["a"], paths["b"]), base)
        exact = merge(MergeRecipe(recipe, dtype="float64"), folder / f"exact-{method}")
        work = {"coolfusion": (sys.executable, OURS)}
        if mergekit:
            work |= {
                f"mergekit in {dtype}": (mergekit, THEIRS) for dtype in ("bfloat16", "float32")
            }
        for tool, (python, code) in work.items():
            output = folder / f"{tool}-{method}"
            config = mergekit_config(method, paths, tool.split()[-1], folder / f"{method}.yml")
            filled = code.format(
                method=method,
                models=(paths["a"], paths["b"]),
                base=base,
                output=str(output),
                config=str(config),
            )
            row = {"method": method, "tool": tool, **measured(python, filled)}
            if method != "dare" or tool == "coolfusion":
                row |= distance(open_stored(output), exact)
            if method == "ties" and tool == "mergekit in float32":
                row["undecided"] = undecided(open_stored(output), exact, paths)
            rows.append(row)
    return rows


def depth_rows(folder: Path, paths: Mapping[int, Mapping[str, str]]) -> list[dict[str, Any]]:
    """A linear merge at each depth: streaming, and with both models loaded."""
    rows = []
    for depth, named in paths.items():
        models = (named["a"], named["b"])
        size = sum(file.stat().st_size for file in Path(models[0]).glob("*.safetensors")) / 1e6
        for how, code in (("streaming", OURS), ("both loaded", WHOLE)):
            output = str(folder / f"{how}-{depth}")
            filled = code.format(method="linear", models=models, base=None, output=output)
            row = {"layers": depth, "model_mb": size, "how": how}
            rows.append({**row, **measured(sys.executable, filled)})
    return rows


def replaced(threshold: float = 0.9) -> list[dict[str, Any]]:
    """The share of entries of MLP matrices that the min-max threshold takes from the expert."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(8960, 1536, generator=generator)
    found = {"normal numbers, 8960 x 1536": [normal]}
    for path in builtin_paths():
        found[f"built-in {path.name}"] = [t for name, t in tensors(path) if "mlp" in name]
    rows = []
    for what, matrices in found.items():
        taken = sum(int((minmax_threshold(m, m + 1, threshold) != m).sum()) for m in matrices)
        rows.append({"what": what, "share": taken / sum(m.numel() for m in matrices)})
    return rows


def cells(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The row's values, numbers shortened; where masks are random there is no difference."""
    shown = [row.get(key, "other mask") for key in keys]
    return [
        str(v) if not isinstance(v, float) else f"{v:.0f}" if v >= 100 else f"{v:.2g}"
        for v in shown
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time, memory and accuracy of merging.")
    parser.add_argument("--mergekit", metavar="PYTHON")
    mergekit = parser.parse_args().mergekit
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {depth: make_models(folder, depth) for depth in (6, 24)}
        idle = measured(sys.executable, "import coolfusion.merging")["peak_mb"]
        depths = depth_rows(folder, paths)
        methods = compare(folder, paths[6], mergekit)
    shares = replaced()
    record = {"idle_mb": idle, "depths": depths, "methods": methods, "minmax_threshold": shares}
    record["total_seconds"] = time.perf_counter() - begun
    by_method = ("method", "tool", "seconds", "peak_mb", "largest", "misrounded")
    texts = [
        "Linear merge of two models in bfloat16. A process that has only imported the package "
        f"peaks at {idle:.0f} MB.",
        table(
            ["layers", "MB each", "how", "seconds", "peak MB"],
            [cells(r, ("layers", "model_mb", "how", "seconds", "peak_mb")) for r in depths],
        ),
        "Two models of 6 layers in bfloat16, against the same merge computed and stored in float64.",
        table(
            ["method", "by", "seconds", "peak MB", "largest difference", "share misrounded"],
            [cells(r, by_method) for r in methods],
        ),
        *(
            f"Of the entries in which {r['tool']} differs for {r['method']}, {r['undecided']:.2%} are at the edge "
            "of a trim or have a tied election."
            for r in methods
            if "undecided" in r
        ),
        "Entries of MLP matrices that minmax_threshold at 0.9 takes from the expert.",
        table(["matrices", "share"], [cells(r, ("what", "share")) for r in shares]),
    ]
    finish("merging_cost", record, "\n\n".join(texts))


if __name__ == "__main__":
    main()
