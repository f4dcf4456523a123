"""What does a fused response cost beside one model's own, and what do guesses and caches save?

Bad news would be a text that changes with speculation, fusion of models that agree far above
the price of the slowest of them, or a step that grows with the response. Times are processor
seconds on one thread, so that other work on the machine does not count, and every ratio is
taken between runs that take turns on the same prompts. The larger models are the built-in
ones, grown (``benchmarks.grown``): texts and agreement of trained models at the cost of their
size. A source's own ``generate`` is made to write as many tokens as the fused text has.

    python -m benchmarks.speed [--count 4] [--large 50000000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks._results import RESULTS, finish, table
from benchmarks.grown import grown
from benchmarks.word_problems import generate
from coolfusion.backends.base import Query, Scores
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.huggingface.causal import DEFAULT_ROWS
from coolfusion.backends.huggingface.logits import read_scores
from coolfusion.backends.huggingface.probing import drafted
from coolfusion.backends.huggingface.snapshots import SnapshotPasses
from coolfusion.backends.source import Source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.speculation import Speculation
from coolfusion.types import Generation, StopReason

AGREES, ARGUES = 0.2, 0.7  # noise on a copy's weights: few, or half, of the segments contested
REQUEST = Request(max_new_tokens=120)


@dataclass(slots=True)
class Tally:
    """Seconds, forward passes and forwarded tokens of one way of decoding."""

    seconds: float = 0.0
    passes: int = 0
    forwarded: int = 0
    texts: list[str] = field(default_factory=list)
    num_contested: int = 0
    num_steps: int = 0

    def add(self, seconds: float, generation: Generation) -> None:
        """Count one response."""
        usage = generation.stats.usage.values()
        self.seconds += seconds
        self.passes += sum(spent.num_passes for spent in usage)
        self.forwarded += sum(spent.num_forwarded for spent in usage)
        self.texts.append(generation.text)
        self.num_contested += generation.stats.num_contested
        self.num_steps += generation.stats.num_steps


def timed(
    call: Callable[[], Any], clock: Callable[[], float] = time.process_time
) -> tuple[float, Any]:
    """Seconds of a call by ``clock``, the processor's by default, and its result."""
    begun = clock()
    result = call()
    return clock() - begun, result


def own_generate(
    source: Source,
    prompt: Any,
    num_tokens: int,
    clock: Callable[[], float] = time.process_time,
    **more: Any,
) -> float:
    """Seconds of a model's own greedy ``generate`` for so many tokens; ``more`` goes to it."""
    return timed(lambda: greedy(source, [prompt], num_tokens, **more), clock)[0]


def greedy(source: Source, prompts: Sequence[Any], num_tokens: int, **more: Any) -> torch.Tensor:
    """What a model's own ``generate`` makes of prompts: ids (rows, longest prompt + tokens)."""
    backend: Any = source.backend
    rows = [source.tokenizer.encode_prompt(prompt) for prompt in prompts]
    width = max(map(len, rows))
    padding = [width - len(row) for row in rows]
    return backend._model.generate(
        input_ids=torch.tensor([[0] * n + list(row) for n, row in zip(padding, rows, strict=True)]),
        attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in padding]),
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
        **more,
    )


def one_pass(sources: Sequence[Source], prompt: Any, text: str) -> float:
    """Seconds for every source to read the prompt and the final text once: the lower bound."""
    total = 0.0
    for source in sources:
        model: Any = source.backend
        ids = torch.tensor([source.tokenizer.encode_prompt(prompt) + source.tokenizer.encode(text)])
        with torch.inference_mode():
            total += timed(lambda m=model, i=ids: m._model(input_ids=i, use_cache=False))[0]
    return total


def reencoded(sources: Sequence[Source], prompt: Any, request: Request) -> tuple[float, Generation]:
    """A loop that computes the whole text for every drafted token and every candidate."""
    forgetful = [replace(source, backend=_Reencoding(source)) for source in sources]
    request = replace(request, on_source_error="raise")  # a loop without sources would be fast
    decoder = SegmentDecoder(forgetful, speculation=None)

    def run() -> Generation:
        state, steps = replace(decoder.start(prompt, request), sequence_id=None), []
        while state.stop_reason is None:
            state, step = decoder.step(state)
            steps.append(step)
        return decoder.finish(state, steps)

    return timed(run)


class _Reencoding:
    """A backend without any memory: every query is one pass over all its tokens."""

    def __init__(self, source: Source) -> None:
        backend: Any = source.backend
        self.vocab_size, self.context_length = backend.vocab_size, backend.context_length
        self._model = backend._model

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Each query by itself."""
        fresh = [SnapshotPasses(self._model, self.vocab_size, 0) for _ in queries]
        return [
            passes.answer([query], read_scores)[0]
            for passes, query in zip(fresh, queries, strict=True)
        ]

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """One pass for each token."""
        return drafted(self.score, queries, num_tokens)


def compare(
    sources: Sequence[Source],
    prompts: Sequence[Any],
    *,
    naive: bool,
    request: Request = REQUEST,
) -> dict[str, Any]:
    """All ways of decoding ``prompts`` with ``sources``, by turns; the first prompt warms up."""
    ways = {
        "fused": SegmentDecoder(with_own_caches(sources)),
        "plain": SegmentDecoder(with_own_caches(sources), speculation=None),
    }
    tallies = {name: Tally() for name in (*ways, "reencoding")}
    alone = dict.fromkeys([source.name for source in sources], 0.0)
    bound = 0.0
    for decoder in ways.values():
        decoder.generate(prompts[0], request)  # the first passes of a process are slower
    for prompt in prompts[1:]:
        for name, decoder in ways.items():
            tallies[name].add(*timed(lambda d=decoder, p=prompt: d.generate(p, request)))
        text = tallies["fused"].texts[-1]
        for source in sources:
            num_tokens = len(source.tokenizer.encode(text)) + 1  # the end is one
            alone[source.name] += own_generate(source, prompt, num_tokens)
        bound += one_pass(sources, prompt, text)
        if naive:
            tallies["reencoding"].add(*reencoded(sources, prompt, request))
    slowest = max(alone.values())
    fused, plain, again = tallies["fused"], tallies["plain"], tallies["reencoding"]
    return {
        "identical": fused.texts == plain.texts and (not naive or again.texts == fused.texts),
        "contested": fused.num_contested / fused.num_steps,
        "tokens": sum(len(sources[0].tokenizer.encode(text)) for text in fused.texts)
        / (len(prompts) - 1),
        "fused": fused.seconds / slowest,
        "plain": plain.seconds / slowest,
        "reencoding": again.seconds / slowest if naive else None,
        "bound": bound / slowest,
        "passes": fused.passes,
        "plain_passes": plain.passes,
        "forwarded": fused.forwarded,
        "plain_forwarded": plain.forwarded,
        "reencoding_forwarded": again.forwarded if naive else None,
    }


def with_own_caches(sources: Sequence[Source]) -> list[Source]:
    """The same models with empty caches, so that nobody finds prompts that another has read."""
    found = []
    for source in sources:
        backend: Any = copy(source.backend)
        backend._passes = backend._way.passes(backend._model, backend.vocab_size, DEFAULT_ROWS)
        found.append(replace(source, backend=backend))
    return found


def side_by_side(sources: Sequence[Source], prompts: Sequence[Any]) -> dict[str, Any]:
    """Responses per second of batches of 1, 8 and 32, relative to one by one."""
    SegmentDecoder(sources).generate(prompts[0], REQUEST)  # the first passes are slower
    seconds, texts = {}, {}
    for way, speculation in (("", Speculation()), (" without speculation", None)):
        for rows in (1, 8, 32):
            # A decoder of its own, since one that has seen the prompts would not read them again.
            how = SegmentDecoder(with_own_caches(sources), speculation=speculation)
            spent, found = timed(
                lambda h=how, r=rows: h.generate_batch(prompts, REQUEST, max_rows=r)
            )
            seconds[f"{rows}{way}"], texts[f"{rows}{way}"] = spent, [g.text for g in found]
    first = texts["1"]
    return {
        "identical": all(found == first for found in texts.values()),
        "throughput": {name: seconds["1"] / spent for name, spent in seconds.items()},
        "without": {
            name: seconds["1 without speculation"] / spent for name, spent in seconds.items()
        },
    }


def over_slowest_batch(
    sources: Sequence[Source], prompts: Sequence[Any], request: Request, repeats: int = 1
) -> float:
    """Seconds of prompts fused side by side over those of the slowest source's own ``generate``.

    The source writes as many tokens in each row of its batch as the fused texts have on average.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        decoder = SegmentDecoder(with_own_caches(sources))
        spent, found = timed(
            lambda d=decoder: d.generate_batch(prompts, request, max_rows=len(prompts))
        )
        seconds["fused"].append(spent)
        for source in sources:
            num = round(statistics.mean(written(source, each) for each in found))
            spent, _ = timed(lambda s=source, n=num: greedy(s, prompts, n))
            seconds[source.name].append(spent)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    return middle["fused"] / max(middle[source.name] for source in sources)


def written(source: Source, generation: Generation) -> int:
    """How many tokens a source's own ``generate`` takes for a text; the end is one."""
    ends = generation.stop_reason is StopReason.END
    return max(1, len(source.tokenizer.encode(generation.text)) + ends)


def memory(source: Source, prompt: Any) -> float:
    """Bytes of weights and caches after a response, over weights and its own keys and values."""
    decoder = SegmentDecoder([source, replace(source, name="again")])
    generation = decoder.generate(prompt, REQUEST)
    backend: Any = source.backend
    weights = sum(p.numel() * p.element_size() for p in backend._model.parameters())
    layers = backend._passes._cache.layers
    held = sum(
        part.numel() * part.element_size()
        for layer in layers
        for part in (layer.keys, layer.values)
    )
    num_tokens = len(source.tokenizer.encode_prompt(prompt)) + len(
        source.tokenizer.encode(generation.text)
    )
    keys = layers[0].keys
    needed = 2 * len(layers) * keys.shape[1] * keys.shape[3] * num_tokens * keys.element_size()
    return (weights + held) / (weights + needed)


def settings(large: int) -> list[tuple[str, Callable[[], list[Source]], bool]]:
    """(name, sources, whether the re-encoding loop is run) of every comparison."""
    sums, groups, money = builtin_paths()
    size = f"{large // 1_000_000}M"

    def copies(noise: float, num: int, first: int = large) -> list[Source]:
        noisy = [
            grown(sums, large, noise=noise * (1 + 0.1 * i), name=f"copy{i}") for i in range(num)
        ]
        return [grown(sums, first), *noisy]

    return [
        ("built-in, 2 tokenizers", lambda: [grown(p, 0) for p in (sums, groups)], True),
        ("built-in, 3 tokenizers", lambda: [grown(p, 0) for p in (sums, groups, money)], True),
        (f"{size}, 2 tokenizers", lambda: [grown(p, large) for p in (sums, groups)], True),
        (f"{size}, 3 tokenizers", lambda: [grown(p, large) for p in (sums, groups, money)], False),
        (f"{size} and a copy that agrees", lambda: copies(AGREES, 1), True),
        (f"{size} and 2 copies that agree", lambda: copies(AGREES, 2), False),
        (f"{size} and 3 copies that agree", lambda: copies(AGREES, 3), False),
        (f"{size} and a tenth of it, agreeing", lambda: copies(AGREES, 1, large // 10), False),
        (f"{size} and a copy that argues", lambda: copies(ARGUES, 1), False),
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The cost of fused responses.")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--large", type=int, default=50_000_000)
    parser.add_argument(
        "--only", help='measure again what has this in its name, "batch" or a setting'
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    problems = generate(max(32, options.count + 1), seed=5, split="test")
    chats = [[{"role": "user", "content": problem.question}] for problem in problems]
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(_compare_made, make, chats[: options.count + 1], naive)
        for name, make, naive in settings(options.large)
    }
    sums = builtin_paths()[0]
    runs["a copy that agrees, long prompts"] = partial(
        _compare_made,
        lambda: [grown(sums, options.large), grown(sums, options.large, noise=AGREES, name="copy")],
        _long_chats(options.count + 1),
        False,
    )
    folder = os.environ.get("COOLFUSION_REAL")
    for length in (40, 200) if folder is not None else ():
        name = f"two story models made elsewhere, {length} tokens at most"
        runs[name] = partial(_real, Path(folder or "."), options.count, length)
    earlier: dict[str, Any] = {}
    if options.only:
        earlier = json.loads((RESULTS / "speed.json").read_text("utf-8"))
    record: dict[str, Any] = earlier.get("settings", {})
    for name, run in runs.items():
        if not options.only or options.only in name:
            record[name] = run()
            print(name, record[name], flush=True)
    batch = earlier.get("batch")
    if not options.only or options.only in "batch":
        three = [grown(path, 0) for path in builtin_paths()]
        over = {str(n): over_slowest_batch(three[:n], chats[:32], REQUEST) for n in (2, 3)}
        batch = {**side_by_side(three[:2], chats[:32]), "over_slowest": over}
        print("batch", batch, flush=True)
    held = earlier.get("memory") or memory(grown(sums, options.large), chats[0])
    facts = {"settings": record, "batch": batch, "memory": held}
    finish("speed", facts, _tables(record, batch, held))


def _compare_made(
    make: Callable[[], list[Source]], prompts: Sequence[Any], naive: bool
) -> dict[str, Any]:
    return compare(make(), prompts, naive=naive)


def _long_chats(count: int) -> list[Any]:
    """Questions that are asked five times over, which leaves little of the context window."""
    problems = generate(count, seed=6, split="test")
    return [
        [{"role": "user", "content": "\n".join([problem.question] * 5)}] for problem in problems
    ]


def _real(root: Path, count: int, length: int) -> dict[str, Any]:
    """The story models nobody here trained, on the openings of stories."""
    lines = (root / "data" / "tinystories" / "prompts.jsonl").read_text("utf-8").splitlines()
    openings = [json.loads(line)["prompt"] for line in lines[: count + 1]]
    names = ("stories260K", "babyllama-361")
    sources = [load_source(root / "models" / name, name) for name in names]
    return compare(sources, openings, naive=True, request=Request(max_new_tokens=length))


def _tables(record: dict[str, Any], batch: dict[str, Any], held: float) -> str:
    def cell(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            name,
            "yes" if r["identical"] else "NO",
            f"{r['contested']:.0%}",
            cell(r["tokens"], 0),
            cell(r["fused"]),
            cell(r["plain"]),
            cell(r["reencoding"]),
            cell(r["bound"]),
            f"{r['passes']} / {r['plain_passes']}",
            " / ".join(
                str(r[key] or "")
                for key in ("forwarded", "plain_forwarded", "reencoding_forwarded")
            ),
        ]
        for name, r in record.items()
    ]
    header = ["sources", "same text", "contested", "tokens"]
    header += ["fused", "plain cached loop", "re-encoding loop", "one pass over the text"]
    header += ["passes, fused / plain", "forwarded tokens, fused / plain / re-encoding"]
    lines = [
        "Seconds relative to the slowest source's own generate for a text of the same length.",
        "",
        table(header, rows),
        "",
        "Two built-in sources, 32 prompts, responses per second relative to one by one:",
        "",
        table(
            ["rows side by side", "against one by one", "against one by one without speculation"],
            [
                [name, cell(value), cell(batch["without"][name])]
                for name, value in batch["throughput"].items()
            ],
        ),
        "",
        f"Same texts in every batch: {'yes' if batch['identical'] else 'NO'}.",
        "32 rows fused side by side, over the slowest source's own batch of 32: "
        + ", ".join(f"{value:.2f} ({num} sources)" for num, value in batch["over_slowest"].items())
        + ".",
        f"Weights and caches over weights and the text's own keys and values: {held:.2f}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
