"""What does fusing two real models cost beside one of them alone, and beside other ways to pair them?

The models are SmolLM2-135M-Instruct and Gemma-3-270M (``benchmarks.real_pair``) in float32, on ten
prompts of ten kinds. Nobody trained them to agree. Bad news would be a ratio that grows with a kind
of text, a prompt on which speculation costs more than it saves, or a text that changes with it.

A ratio is taken between runs that take turns on the same prompt, each with empty caches and
nothing learned. A source's own ``generate`` is made to write as many tokens as the fused text has.
Times are processor seconds on one thread, except for wall time. That is measured in a process with
two threads, where the source alone is given both as well. Means are geometric, and intervals are
bootstrapped over prompts.

    python -m benchmarks.real_speed [--prompts main|held_out] [--tokens 32] [--repeats 2]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers

from benchmarks._results import finish, table
from benchmarks.real_pair import GEMMA, SMOLLM2, default_folder
from benchmarks.real_prompts import KINDS, SETS
from benchmarks.speed import (
    over_slowest_batch,
    own_generate,
    reencoded,
    timed,
    with_own_caches,
    written,
)
from coolfusion import FusionModel, Generation, Request, SegmentDecoder, Speculation
from coolfusion.backends.source import Source
from coolfusion.evaluation.statistics import bootstrap_interval

REENCODED = ("question", "essay", "letter")  # the naive loop is slow, so on three prompts
BATCHED = tuple(kind for kind in KINDS if kind not in ("Japanese", "Chinese"))  # of like lengths


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt: what was written, and seconds, passes and forwarded tokens of each way.

    ``seconds`` are medians. Ways are "fused", "plain" (without speculation), "assisted", and the
    names of the sources, for their own ``generate``.
    """

    kind: str
    num_tokens: dict[str, int]
    num_contested: int
    num_steps: int
    identical: bool
    seconds: dict[str, float]
    passes: dict[str, int]
    forwarded: dict[str, int]

    @property
    def slowest(self) -> float:
        """Seconds of the slowest source's own ``generate``."""
        return max(self.seconds[name] for name in self.num_tokens)


def one_prompt(
    sources: Sequence[Source],
    kind: str,
    prompt: str,
    request: Request,
    *,
    repeats: int,
    clock: Callable[[], float],
    assisted: Callable[[str, int], float] | None,
) -> Row:
    """All ways on one prompt, by turns. ``assisted`` has its seconds; None: fused and alone only."""
    ways = {"fused": Speculation(), "plain": None} if assisted else {"fused": Speculation()}
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, Generation] = {}
    for _ in range(repeats):
        for name, speculation in ways.items():
            decoder = SegmentDecoder(with_own_caches(sources), speculation=speculation)
            spent, found[name] = timed(lambda d=decoder: d.generate(prompt, request), clock)
            seconds[name].append(spent)
        num_tokens = {source.name: written(source, found["fused"]) for source in sources}
        for source in sources:
            spent = own_generate(source, prompt, num_tokens[source.name], clock)
            seconds[source.name].append(spent)
    if assisted:
        seconds["assisted"].append(assisted(prompt, num_tokens[GEMMA.name]))
    usage = {name: each.stats.usage.values() for name, each in found.items()}
    return Row(
        kind,
        num_tokens,
        found["fused"].stats.num_contested,
        found["fused"].stats.num_steps,
        len({each.text for each in found.values()}) == 1,
        {name: statistics.median(each) for name, each in seconds.items()},
        {name: sum(each.num_passes for each in spent) for name, spent in usage.items()},
        {name: sum(each.num_forwarded for each in spent) for name, spent in usage.items()},
    )


def assisted_seconds(sources: Sequence[Source], tokenizers: Any, prompt: str, num: int) -> float:
    """Universal assisted generation of transformers: the small model drafts for the large one."""
    small, large = sources
    backend: Any = small.backend
    return own_generate(
        large,
        prompt,
        num,
        assistant_model=backend._model,
        assistant_tokenizer=tokenizers[small.name],
        tokenizer=tokenizers[large.name],
    )


def against_reencoding(
    sources: Sequence[Source], prompts: Sequence[str], request: Request
) -> dict[str, Any]:
    """Of each prompt, seconds and forwarded tokens of a loop that re-encodes over the fused ones."""
    seconds, forwarded, identical = [], [], True
    for prompt in prompts:
        decoder = SegmentDecoder(with_own_caches(sources))
        spent, fused = timed(lambda d=decoder, p=prompt: d.generate(p, request))
        naive_spent, naive = reencoded(sources, prompt, request)
        seconds.append(naive_spent / spent)
        forwarded.append(num_forwarded(naive) / num_forwarded(fused))
        identical &= naive.text == fused.text
    return {"seconds": seconds, "forwarded": forwarded, "identical": identical}


def num_forwarded(generation: Generation) -> int:
    """Tokens that all models computed for a response."""
    return sum(each.num_forwarded for each in generation.stats.usage.values())


def with_interval(ratios: Sequence[float]) -> list[str]:
    """Cells of a table: how many, their geometric mean with its interval, least and greatest."""
    logs = [math.log(ratio) for ratio in ratios]
    low, high = map(math.exp, bootstrap_interval(logs))
    mean = f"{math.exp(statistics.mean(logs)):.2f} ({low:.2f}-{high:.2f})"
    return [str(len(ratios)), mean, f"{min(ratios):.2f} to {max(ratios):.2f}"]


def wall_rows(options: argparse.Namespace) -> list[Row]:
    """Fused and alone by wall time, from a process with two threads."""
    command = [sys.executable, "-m", "benchmarks.real_speed", "--wall"]
    command += ["--prompts", options.prompts, "--tokens", str(options.tokens)]
    command += ["--repeats", str(options.repeats)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    done = subprocess.run(
        command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True
    )
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def report(record: dict[str, Any], rows: Sequence[Row], wall: Sequence[Row]) -> str:
    """The tables of all measurements."""
    again = record["reencoding"]
    contested = sum(row.num_contested for row in rows) / sum(row.num_steps for row in rows)
    same = all(row.identical for row in rows) and again["identical"]
    fused = [row.seconds["fused"] / row.slowest for row in rows]
    by_wall = [row.seconds["fused"] / row.slowest for row in wall]
    gains = [row.seconds["plain"] / row.seconds["fused"] for row in rows]
    assisted = [row.seconds["assisted"] / row.seconds[GEMMA.name] for row in rows]
    lines = [
        ["fused, over the slowest source's own generate", *with_interval(fused)],
        ["the same as wall time on two threads, both given to the source", *with_interval(by_wall)],
        [
            "without speculation, over the slowest source's own generate",
            *with_interval([row.seconds["plain"] / row.slowest for row in rows]),
        ],
        ["what speculation saves: without it, over fused", *with_interval(gains)],
        [
            f"{len(BATCHED)} rows fused side by side, over the slowest source's own batch",
            "1",
            f"{record['batch']:.2f}",
            "",
        ],
        [
            "universal assisted generation of transformers, over Gemma's own generate",
            *with_interval(assisted),
        ],
        ["a loop that re-encodes, over fused", *with_interval(again["seconds"])],
        ["tokens that such a loop forwards, over fused", *with_interval(again["forwarded"])],
    ]
    cells = [
        [
            row.kind,
            f"{row.num_contested} of {row.num_steps}",
            " / ".join(str(row.num_tokens[each.name]) for each in (SMOLLM2, GEMMA)),
            f"{ratio:.2f}",
            f"{wall_ratio:.2f}",
            f"{gain:.2f}",
            f"{row.passes['fused']} / {row.passes['plain']}",
            f"{row.forwarded['fused']} / {row.forwarded['plain']}",
            f"{other:.2f}",
        ]
        for row, ratio, wall_ratio, gain, other in zip(
            rows, fused, by_wall, gains, assisted, strict=True
        )
    ]
    header = ["prompt", "contested", "tokens, SmolLM2 / Gemma", "fused", "wall, two threads"]
    header += ["speculation saves", "passes, with / without it", "forwarded, with / without it"]
    return "\n".join(
        [
            f"{SMOLLM2.name} and {GEMMA.name}, float32, at most {record['tokens']} tokens. "
            f"{len(rows)} prompts, {contested:.0%} of their segments contested. "
            f"Same text in every way of fusing: {'yes' if same else 'NO'}.",
            "",
            table(["processor time, one thread", "n", "mean (95 % interval)", "range"], lines),
            "",
            table([*header, "assisted generation"], cells),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The cost of fusing two real models.")
    parser.add_argument("--prompts", choices=SETS, default="main")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--wall", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2 if options.wall else 1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folders = [str(default_folder() / model.name) for model in (SMOLLM2, GEMMA)]
    sources = FusionModel.from_pretrained(folders, dtype="float32").sources
    prompts = dict(zip(KINDS, SETS[options.prompts], strict=True))
    request = Request(max_new_tokens=options.tokens)
    tokenizers = {
        model.name: transformers.AutoTokenizer.from_pretrained(folder)
        for model, folder in zip((SMOLLM2, GEMMA), folders, strict=True)
    }
    one = partial(
        one_prompt,
        sources,
        request=request,
        repeats=options.repeats,
        clock=time.perf_counter if options.wall else time.process_time,
        assisted=None if options.wall else partial(assisted_seconds, sources, tokenizers),
    )
    one("", "Warm", request=replace(request, max_new_tokens=4), repeats=1)
    rows = []
    for kind, prompt in prompts.items():
        rows.append(one(kind, prompt))
        print(rows[-1], file=sys.stderr, flush=True)
    if options.wall:
        print(json.dumps([asdict(row) for row in rows]))
        return
    short = replace(request, max_new_tokens=max(1, options.tokens // 2))
    record = {
        "tokens": options.tokens,
        "repeats": options.repeats,
        "reencoding": against_reencoding(sources, [prompts[kind] for kind in REENCODED], short),
        "batch": over_slowest_batch(
            sources, [prompts[kind] for kind in BATCHED], request, options.repeats
        ),
        "rows": [asdict(row) for row in rows],
    }
    wall = wall_rows(options)
    record["wall_rows"] = [asdict(row) for row in wall]
    name = "real_speed" if options.prompts == "main" else f"real_speed_{options.prompts}"
    finish(name, record, report(record, rows, wall))


if __name__ == "__main__":
    main()
