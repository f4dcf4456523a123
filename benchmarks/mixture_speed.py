"""What does mixing distributions cost beside the sources' own ``generate``?

Bad news would be a token-wise mixture of sources with one vocabulary above 1.15 times the sum of
what they take alone for as many tokens, or a sampled one, which asks one source about each token,
that is not cheaper than a greedy one; a byte-wise mixture above 4 times the slower source alone, or
above 2.5 passes of a source for each of its tokens. Times are processor seconds on one thread, so that other
work on the machine does not count; a ratio is taken between runs that take turns on the same
prompts, and its interval is over prompts. The larger models are the same, grown.

    python -m benchmarks.train_builtin coins --output EXTRA/coins
    python -m benchmarks.mixture_speed --extra EXTRA [--count 12] [--large 20000000]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks._results import finish, table
from benchmarks.grown import grown
from benchmarks.speed import own_generate, timed
from benchmarks.word_problems import generate
from coolfusion.backends.huggingface import TransformersBackend, load_source
from coolfusion.backends.sampling import Sampling
from coolfusion.backends.source import Source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import Mixture, make_mixture
from coolfusion.decoding.request import Request
from coolfusion.evaluation.statistics import bootstrap_interval
from coolfusion.types import Generation

MAX_NEW_TOKENS = 100
GREEDY = Request(MAX_NEW_TOKENS)
SAMPLED = Request(MAX_NEW_TOKENS, sampling=Sampling(0.7, seed=1))
TOKEN_WAYS: Mapping[str, tuple[Mixture, Request]] = {
    "tokens, arithmetic": (make_mixture("arithmetic", route="tokens"), GREEDY),
    "tokens, geometric": (make_mixture("geometric", route="tokens"), GREEDY),
    "tokens, top_k_union": (make_mixture("top_k_union", route="tokens"), GREEDY),
    "tokens, arithmetic, sampled": (make_mixture("arithmetic", route="tokens"), SAMPLED),
}
BYTE_WAYS: Mapping[str, tuple[Mixture, Request]] = {
    "bytes, arithmetic": (make_mixture("arithmetic", route="bytes"), GREEDY),
    "bytes, geometric": (make_mixture("geometric", route="bytes"), GREEDY),
    "bytes, arithmetic, sampled": (make_mixture("arithmetic", route="bytes"), SAMPLED),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one response: seconds mixed, and by source seconds alone, passes and tokens."""

    mixed: float
    alone: tuple[float, ...]
    passes: tuple[int, ...]
    tokens: tuple[int, ...]


def with_interval(costs: Sequence[Cost], alone: Callable[[tuple[float, ...]], float]) -> str:
    """Seconds mixed for each second alone (summed up, or of the slower source), as a cell."""
    ratio = sum(each.mixed for each in costs) / sum(alone(each.alone) for each in costs)
    low, high = bootstrap_interval([each.mixed / alone(each.alone) for each in costs])
    return f"{ratio:.2f} ({low:.2f}-{high:.2f})"


def passes_a_token(costs: Sequence[Cost]) -> float:
    """Passes of a source for each of its own tokens, of the source that needs most."""
    columns = range(len(costs[0].tokens))
    return max(sum(c.passes[k] for c in costs) / sum(c.tokens[k] for c in costs) for k in columns)


def num_written(generation: Generation) -> dict[str, int]:
    """Tokens of the response, its end included, in each source's own count."""
    counts = dict.fromkeys(generation.sources, 1)
    for step in generation.steps:
        for candidate in step.candidates:
            for name, count in zip(step.sources, candidate.num_tokens or (), strict=True):
                counts[name] += count
    return counts


def forgetting(source: Source) -> Source:
    """The same source with nothing cached."""
    model: Any = source.backend
    return replace(source, backend=TransformersBackend(model._model))


def compare(
    sources: Sequence[Source],
    prompts: Sequence[Any],
    ways: Mapping[str, tuple[Mixture, Request]],
) -> dict[str, list[Cost]]:
    """Every way on every prompt, each in turn with the sources alone.

    No way finds a prompt in the memory of another: backends are made anew for each.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number, prompt in enumerate([prompts[0], *prompts]):  # the first is to warm up
        for name, (mixture, request) in ways.items():
            decoder = MixtureDecoder([forgetting(source) for source in sources], mixture)
            mixed, generation = timed(partial(decoder.generate, prompt, request))
            written = num_written(generation)
            alone = [own_generate(each, prompt, written[each.name]) for each in sources]
            if number:
                usage = generation.stats.usage.values()
                passes = tuple(spent.num_passes for spent in usage)
                costs[name].append(Cost(mixed, tuple(alone), passes, tuple(written.values())))
    return costs


def rows_of(setting: str, costs: Mapping[str, Sequence[Cost]]) -> list[list[str]]:
    """A table row for every way."""
    return [
        [
            setting,
            name,
            with_interval(some, sum),
            with_interval(some, max),
            f"{passes_a_token(some):.2f}",
        ]
        for name, some in costs.items()
    ]


def load(paths: Sequence[Path], num_parameters: int) -> list[Source]:
    """Sources as they are (0) or grown."""
    if not num_parameters:
        return [load_source(path, path.name) for path in paths]
    return [grown(path, num_parameters, name=path.name) for path in paths]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="What mixing costs.")
    parser.add_argument("--extra", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--large", type=int, default=20_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    problems = generate(options.count, seed=5, split="test")
    prompts = [[{"role": "user", "content": problem.question}] for problem in problems]
    sizes = {"as they are": 0, f"grown to {options.large / 1e6:.0f}M": options.large}
    first, second = builtin_paths()[:2]
    settings = {
        "one tokenizer": ([first, options.extra / "coins"], TOKEN_WAYS),
        "two tokenizers": ([first, second], BYTE_WAYS),
    }
    lines, facts = [], {}
    for (setting, (paths, ways)), (size, number) in itertools.product(
        settings.items(), sizes.items()
    ):
        costs = compare(load(paths, number), prompts, ways)
        lines += rows_of(f"{setting}, {size}", costs)
        facts[f"{setting}, {size}"] = {
            name: [asdict(cost) for cost in some] for name, some in costs.items()
        }
    header = ["sources", "mixture", "times the sum alone (95 %)", "times the slower alone (95 %)"]
    header += ["passes of a source a token"]
    finish("mixture_speed", {"count": len(prompts), "costs": facts}, table(header, lines))


if __name__ == "__main__":
    main()
