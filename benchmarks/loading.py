"""What does loading cost beside transformers' own, and where does the memory of a source go?

Bad news would be a source that loads more than 1.3 times as long as its model and tokenizer do, a
mixture that needs more than half a second before its first byte, or tables as large as a model.
Times are processor seconds on one thread, medians of ``--count`` runs that take turns. Memory is
what a process of its own gains (resident, after a collection). The models are the folders in that
of COOLFUSION_PAIR, or the built-in ones.

    python -m benchmarks.loading [--count 5]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks._results import finish, table
from coolfusion.backends.huggingface.loading import load_source, load_tokenizer
from coolfusion.builtin import builtin_paths
from coolfusion.tokenization.covers import Covering

TEXT = "The old man had 12 boats, and each of them was painted blue. " * 5
LIMIT = 64  # characters of a response before anything of it is settled


def theirs(path: str) -> Any:
    """A model and its tokenizer as transformers loads them."""
    kind = transformers.AutoModelForCausalLM
    model = kind.from_pretrained(path, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(path), model


def ours(path: str) -> Any:
    """The same as a source."""
    return load_source(path, "source", dtype="float32", device="cpu")


def seconds(do: Callable[[], object]) -> float:
    """Processor time of one call."""
    begun = time.process_time()
    do()
    return time.process_time() - begun


def again(path: str, count: int) -> dict[str, float]:
    """Times of loads in a process that has loaded the model before, by turns."""
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for load in (theirs, ours):
        load(path)
    for _ in range(count):
        times["theirs"].append(seconds(lambda: theirs(path)))
        times["ours"].append(seconds(lambda: ours(path)))
    return {name: statistics.median(found) for name, found in times.items()}


def memory(path: str) -> dict[str, float]:
    """Megabytes by part, and the time of the first byte-wise mixture."""
    for each in builtin_paths():  # what all tokenizers share, and the modules of each kind
        load_tokenizer(each)
    found, before = {}, resident()

    def gained(name: str) -> None:
        nonlocal before
        now = resident()
        found[name], before = now - before, now

    tokenizer = load_tokenizer(path, lossy_ok=True)
    gained("tokenizer")
    list(tokenizer.settled(TEXT[:LIMIT], TEXT[LIMIT:]))
    gained("long texts")
    size = max(tokenizer.ids) + 1
    coverings = []
    found["first mixture, s"] = seconds(lambda: coverings.append(Covering(tokenizer, size)))
    gained("byte-wise mixture")
    _, model = theirs(path)
    found["weights"] = sum(each.nbytes for each in model.parameters()) / 1e6
    with torch.inference_mode():
        cache = model(input_ids=torch.ones((1, 8), dtype=torch.long)).past_key_values
    kept = [each for layer in cache.layers for each in (layer.keys, layer.values)]
    found["cache"] = sum(each.nbytes for each in kept) / 8 / 1e3
    return found


def resident() -> float:
    """Megabytes of this process, without what is free in it."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def first(name: str, path: str) -> float:
    """Time of the first load in a process."""
    return seconds(lambda: {"theirs": theirs, "ours": ours}[name](path))


def apart(measure: Callable[..., Any], *arguments: object) -> Any:
    """One measurement in a process of its own, in which all is imported and nothing is loaded."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(measure, arguments)


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    folder = os.environ.get("COOLFUSION_PAIR")
    paths = sorted(p.parent for p in Path(folder).glob("*/config.json")) if folder else None
    models = {}
    for path in paths or builtin_paths():
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(count):
            for name, found in times.items():
                found.append(apart(first, name, str(path)))
        models[path.name] = {
            "first": {name: statistics.median(found) for name, found in times.items()},
            "again": apart(again, str(path), count),
            "memory": apart(memory, str(path)),
        }
    finish("loading", {"count": count, "models": models}, tables(models))


def tables(models: dict[str, Any]) -> str:
    """Times and memory of each model."""
    loads, parts = [], []
    for name, found in models.items():
        loads.append([name])
        for when in ("first", "again"):
            own, source = found[when]["theirs"], found[when]["ours"]
            loads[-1] += [f"{own:.2f}", f"{source:.2f}", f"{source / own:.2f}"]
        loads[-1].append(f"{found['memory']['first mixture, s']:.2f}")
        sizes = found["memory"]
        parts.append([name, f"{sizes['weights']:.0f}", f"{sizes['weights'] / 2:.0f}"])
        parts[-1] += [f"{sizes['cache']:.0f}", f"{sizes['cache'] / 2:.0f}"]
        names = ("tokenizer", "long texts", "byte-wise mixture")
        parts[-1] += [f"{max(0.0, sizes[each]):.0f}" for each in names]
    times = ["processor seconds", "first load, transformers", "as a source", "ratio"]
    times += ["loaded again, transformers", "as a source", "ratio", "first byte-wise mixture"]
    memories = ["memory", "weights in float32, MB", "in bfloat16, MB"]
    memories += ["cache of a token and row in float32, kB", "in bfloat16, kB"]
    memories += ["tokenizer, MB", "more for long texts, MB", "more for byte-wise mixtures, MB"]
    return table(times, loads) + "\n\n" + table(memories, parts)


if __name__ == "__main__":
    main()
