"""What does mixing distributions cost beside the sources' own ``generate``?

Bad news would be a token-wise mixture of sources with one vocabulary above 1.15 times the sum of
what they take alone for as many tokens, or a sampled one, which asks one source about each token,
that is not cheaper than a greedy one. Times are processor seconds on one thread, so that other
work on the machine does not count; a ratio is taken between runs that take turns on the same
prompts, and its interval is over prompts. The larger models are the same, grown.

    python -m benchmarks.train_builtin coins --output EXTRA/coins
    python -m benchmarks.mixture_speed --extra EXTRA [--count 12] [--large 20000000]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks._results import finish, table
from benchmarks.grown import grown
from benchmarks.speed import timed
from benchmarks.word_problems import generate
from coolfusion.backend import Sampling
from coolfusion.backends.huggingface import TransformersBackend, load_source
from coolfusion.builtin import builtin_paths
from coolfusion.evaluation.statistics import bootstrap_interval
from coolfusion.mixture.decoder import MixtureDecoder
from coolfusion.mixture.recipe import Mixture, make_mixture
from coolfusion.recipe import Request
from coolfusion.sources import Source
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


@dataclass(slots=True)
class Costs:
    """Of one way of mixing, an entry per prompt: seconds mixed and alone, passes and tokens."""

    mixed: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Seconds mixed for each second alone."""
        return sum(self.mixed) / sum(self.alone)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean over prompts of their ratios, 95 %."""
        return bootstrap_interval([m / a for m, a in zip(self.mixed, self.alone, strict=True)])


def num_written(generation: Generation) -> dict[str, int]:
    """Tokens of the response, its end included, in each source's own count."""
    counts = dict.fromkeys(generation.sources, 1)
    for step in generation.steps:
        for candidate in step.candidates:
            for name, count in zip(step.sources, candidate.num_tokens or (), strict=True):
                counts[name] += count
    return counts


def own_generate(source: Source, prompt: Any, num_tokens: int) -> float:
    """Seconds of a model's own greedy ``generate`` for so many tokens."""
    model: Any = source.backend
    ids = torch.tensor([source.tokenizer.encode_prompt(prompt)])
    seconds, _ = timed(
        lambda: model._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    )
    return seconds


def forgetting(source: Source) -> Source:
    """The same source with nothing cached."""
    model: Any = source.backend
    return replace(source, backend=TransformersBackend(model._model))


def compare(
    sources: Sequence[Source],
    prompts: Sequence[Any],
    ways: Mapping[str, tuple[Mixture, Request]],
) -> dict[str, Costs]:
    """Every way on every prompt, each in turn with the sources alone.

    No way finds a prompt in the memory of another: backends are made anew for each.
    """
    costs = {name: Costs() for name in ways}
    for number, prompt in enumerate([prompts[0], *prompts]):  # the first is to warm up
        for name, (mixture, request) in ways.items():
            decoder = MixtureDecoder([forgetting(source) for source in sources], mixture)
            mixed, generation = timed(partial(decoder.generate, prompt, request))
            written = num_written(generation)
            alone = sum(own_generate(each, prompt, written[each.name]) for each in sources)
            if number:
                kept = costs[name]
                kept.mixed.append(mixed)
                kept.alone.append(alone)
                usage = generation.stats.usage.values()
                kept.passes.append(sum(spent.num_passes for spent in usage))
                kept.tokens.append(max(written.values()))
    return costs


def rows_of(setting: str, costs: Mapping[str, Costs]) -> list[list[str]]:
    """A table row for every way."""
    return [
        [
            setting,
            name,
            f"{each.ratio:.2f} ({each.interval[0]:.2f}-{each.interval[1]:.2f})",
            f"{1000 * sum(each.mixed) / sum(each.tokens):.2f}",
            f"{1000 * sum(each.alone) / sum(each.tokens):.2f}",
            f"{sum(each.passes) / sum(each.tokens):.2f}",
        ]
        for name, each in costs.items()
    ]


def load(extra: Path, num_parameters: int) -> list[Source]:
    """Two sources with one vocabulary, as they are (0) or grown."""
    paths = (builtin_paths()[0], extra / "coins")
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
    settings = {"as they are": 0, f"grown to {options.large / 1e6:.0f}M": options.large}
    lines, facts = [], {}
    for setting, num_parameters in settings.items():
        costs = compare(load(options.extra, num_parameters), prompts, TOKEN_WAYS)
        lines += rows_of(setting, costs)
        facts[setting] = {name: each.ratio for name, each in costs.items()}
    header = [
        "sources",
        "mixture",
        "times the sum alone (95 %)",
        "ms a token",
        "ms alone",
        "passes",
    ]
    finish("mixture_speed", {"count": len(prompts), "ratios": facts}, table(header, lines))


if __name__ == "__main__":
    main()
