"""Is it safe to switch fusing on: with complementary, equal, identical, weak and many partners?

Bad news would be a fusion of complementary sources that does not beat the best of them, its
reranked whole answers and its votes at equal compute; a weak partner that costs more than a
standard error; a third or fourth source that does harm. The default is chosen on the
development split (``--split dev``), where all alternatives run; the test split, looked at once,
has the default, the paper's preset, the baselines and mixtures of distributions.

    python -m benchmarks.train_builtin beginner --output EXTRA/beginner    # and coins
    python -m benchmarks.settings --extra EXTRA [--split dev] [--count 400] [--only weak]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks._results import RESULTS, finish, table
from benchmarks.grown import grown
from benchmarks.word_problems import Problem, extract_answer, generate
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.recipe import PRESETS, Recipe, make_recipe
from coolfusion.evaluation import EvaluationPlan, Report, evaluate, make_task
from coolfusion.evaluation.statistics import bootstrap_interval, paired_p_value

SEEDS = {"dev": 2, "test": 3}
REQUEST = Request(max_new_tokens=120)
STIRRED, DISTURBED = 0.1, 0.25  # relative noise on the weights: an equal copy, and a worse one
SETTINGS = {
    "complementary": ("sums", "groups"),
    "complementary, same tokenizer": ("sums", "coins"),
    "equal": ("sums", "sums stirred"),
    "disturbed copy": ("sums", "sums disturbed"),
    "same model twice": ("groups", "groups again"),
    "weak": ("groups", "beginner"),
    "three": ("sums", "groups", "money"),
    "four": ("sums", "groups", "money", "coins"),
}
# Mixed token by token where the sources share a vocabulary; else byte by byte, the union by strings.
MIXTURES = ("mixture", "mixture(geometric)", "mixture(top_k_union)")
ALTERNATIVES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper preset": {"preset": "paper"},
    "mean_perplexity": {"reranker": "mean_perplexity"},
    "bits_per_byte": {"reranker": "bits_per_byte"},
    "mixture": {"reranker": "mixture"},
    "leave_one_out(mean_nll)": {"reranker": "leave_one_out(mean_nll)"},
    "calibrated(mean_nll)": {"reranker": "calibrated(mean_nll)"},
    "without_outliers(mean_nll, 3)": {"reranker": "without_outliers(mean_nll, 3)"},
    "prior": {"prior": "prompt"},
    "hedge": {"hedge": 0.3},
    "gate 0.95": {"gate": 0.95},
    "phrases(3)": {"boundary": "phrases(3)"},
    "lines": {"boundary": "lines"},
    "scored by bytes": {"scores": "bytes", "reranker": "bits_per_byte"},
}


def load(extra: Path) -> dict[str, Source]:
    """Every source by name; one model may be there under two names."""
    paths = [*builtin_paths(), *(extra / name for name in ("beginner", "coins"))]
    again = load_source(paths[1], "groups again")
    stirred = grown(paths[0], 0, noise=STIRRED, name="sums stirred")
    disturbed = grown(paths[0], 0, noise=DISTURBED, name="sums disturbed")
    loaded = [load_source(path, path.name) for path in paths]
    return {source.name: source for source in (*loaded, again, stirred, disturbed)}


def chats(problems: Sequence[Problem]) -> list[Any]:
    """Every problem as a chat."""
    return [[{"role": "user", "content": problem.question}] for problem in problems]


def right(recipe: Recipe, sources: Sequence[Source], problems: Sequence[Problem]) -> list[bool]:
    """Which problems the fused sources solve."""
    generations = SegmentDecoder(sources, recipe).generate_batch(chats(problems), REQUEST)
    return [
        extract_answer(generation.text) == problem.answer
        for generation, problem in zip(generations, problems, strict=True)
    ]


def alternatives(
    sources: Mapping[str, Source],
    names: Sequence[str],
    problems: Sequence[Problem],
    chosen: Sequence[str],
) -> dict[str, float]:
    """Share solved by each source alone and by the alternatives chosen."""
    found = {}
    for name in names:
        found[name] = sum(right(Recipe(), [sources[name]], problems)) / len(problems)
    together = [sources[name] for name in names]
    for name in chosen:
        recipe = make_recipe(**ALTERNATIVES[name])
        found[name] = sum(right(recipe, together, problems)) / len(problems)
    return found


def report(
    sources: Mapping[str, Source], names: Sequence[str], problems: Sequence[Problem]
) -> tuple[Report, list[bool]]:
    """The evaluation's report on the default, and what the paper's preset solves."""
    together = [sources[name] for name in names]
    rows = [
        {"id": number, "messages": chat, "reference": str(problem.answer)}
        for number, (chat, problem) in enumerate(zip(chats(problems), problems, strict=True))
    ]
    task = make_task("word problems", rows)
    plan = EvaluationPlan(systems=("sources", "rerank", "self_consistency", "fusion", *MIXTURES))
    found = evaluate(
        SegmentDecoder(together), task, metric="last_number", request=REQUEST, plan=plan
    )
    return found, right(PRESETS["paper"], together, problems)


def rows_of(found: Report, paper: Sequence[bool]) -> list[list[str]]:
    """One table row for every system of a setting."""
    best = found.result(found.best_source)
    values = [float(value) for value in paper]
    low, high = bootstrap_interval(values)
    p_value = paired_p_value(values, [float(value or 0) for value in best.values])
    lines = [
        [
            result.name + (" (best source)" if result.name == best.name else ""),
            f"{result.mean:.3f} ({result.interval[0]:.3f}-{result.interval[1]:.3f})",
            "" if result.p_value is None else f"{result.p_value:.2g}",
            f"{len(result.fixed)} / {len(result.broken)}",
            f"{result.num_forwarded:.0f}",
            f"{1000 * result.seconds:.0f}",
        ]
        for result in found.results
    ]
    mean = sum(values) / len(values)
    return [
        *lines,
        [
            "paper preset",
            f"{mean:.3f} ({low:.3f}-{high:.3f})",
            f"{p_value:.2g}",
            "",
            "",
            "",
        ],
    ]


def standard_error(mean: float, count: int) -> float:
    """Of a share."""
    return math.sqrt(mean * (1 - mean) / count)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Fusing in every company.")
    parser.add_argument("--extra", type=Path, required=True)
    parser.add_argument("--split", choices=sorted(SEEDS), default="test")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--only", action="append", choices=sorted(SETTINGS))
    parser.add_argument("--alternative", action="append", choices=sorted(ALTERNATIVES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    sources = load(options.extra)
    problems = generate(options.count, seed=SEEDS[options.split], split=options.split)
    chosen = options.only or list(SETTINGS)
    heading = f"{len(problems)} {options.split} problems; standard error at 0.75: "
    heading += f"{standard_error(0.75, len(problems)):.3f}\n\n"
    if options.split == "dev":
        _on_dev(sources, chosen, problems, heading, options.alternative or list(ALTERNATIVES))
    for setting in chosen if options.split == "test" else ():
        _on_test(sources, setting, problems, f"{setting}: {heading}")


def _on_dev(
    sources: Mapping[str, Source],
    settings: Sequence[str],
    problems: Sequence[Problem],
    heading: str,
    chosen: Sequence[str],
) -> None:
    """The alternatives chosen, in one table with those that earlier runs left for it."""
    facts: dict[str, Any] = {"split": "dev", "count": len(problems)}
    record = _kept("settings_dev", facts)
    for setting in settings:
        found = alternatives(sources, SETTINGS[setting], problems, chosen)
        record[setting] = {**record.get(setting, {}), **found}
        print(setting, found, flush=True)
    lines = [
        [
            setting,
            ", ".join(f"{name} {found[name]:.2f}" for name in SETTINGS[setting]),
            *(f"{found[name]:.3f}" if name in found else "" for name in ALTERNATIVES),
        ]
        for setting, found in record.items()
    ]
    header = ["setting", "sources alone", *ALTERNATIVES]
    finish("settings_dev", {**facts, "solved": record}, heading + table(header, lines))


def _kept(name: str, facts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What an earlier run on the same problems found."""
    file = RESULTS / f"{name}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = all(kept.get(key) == value for key, value in facts.items())
    return dict(kept["solved"]) if same else {}


def _on_test(
    sources: Mapping[str, Source], setting: str, problems: Sequence[Problem], heading: str
) -> None:
    """One setting with its baselines, in a table of its own."""
    found, paper = report(sources, SETTINGS[setting], problems)
    solved = {result.name: result.mean for result in found.results}
    solved["paper preset"] = sum(paper) / len(paper)
    header = ["system", "solved (95 % interval)", "p against the best source"]
    header += ["fixed / broken", "forwarded tokens", "ms per answer"]
    slug = setting.replace(", ", " ").replace(" ", "_")
    facts = {"split": "test", "setting": setting, "count": len(problems), "solved": solved}
    finish(f"settings_test_{slug}", facts, heading + table(header, rows_of(found, paper)))


if __name__ == "__main__":
    main()
