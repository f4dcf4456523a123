"""Does fusing the built-in sources solve more word problems than the best of them alone?

Bad news would be a default below the best source, or below another reranker by more than its
interval. The rows to choose a default by come from the dev split (``--split dev``); the test
split, looked at once, is the default.

    python -m benchmarks.quality [--split dev] [--count 400]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks._results import finish, table, with_interval
from benchmarks.word_problems import Problem, extract_answer, generate
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.answers.rerank import candidates_of, rerank
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.end_rules import END_RULES
from coolfusion.decoding.segments.recipe import PRESETS, Recipe
from coolfusion.decoding.segments.rerankers import RERANKERS, lead, without_outliers
from coolfusion.types import Generation

SEEDS = {"dev": 2, "test": 3}


@dataclass(frozen=True)
class System:
    """Sources and a recipe that are measured as one row."""

    name: str
    sources: Sequence[Source]
    recipe: Recipe


@dataclass(frozen=True)
class Result:
    """What a system did on a list of problems."""

    right: list[bool]
    generations: list[Generation]
    seconds: float


def systems(sources: Sequence[Source], split: str) -> list[System]:
    """Every source alone, pairs, presets and rerankers; on dev guards and end rules too."""
    rows = [System(source.name, [source], Recipe()) for source in sources]
    for first in range(len(sources)):
        for second in range(first + 1, len(sources)):
            pair = [sources[first], sources[second]]
            rows.append(System(" + ".join(s.name for s in pair), pair, PRESETS["default"]))
    rows += [
        System(f"all three, {name} preset", sources, recipe) for name, recipe in PRESETS.items()
    ]
    rows += [
        System(f"all three, {name}", sources, Recipe(reranker=judge))
        for name, judge in RERANKERS.items()
        if judge is not Recipe().reranker
    ]
    if split == "dev":
        judges = {
            "led by groups": lead("groups"),
            "mean_nll without outliers": without_outliers(RERANKERS["mean_nll"]),
        }
        rows += [
            System(f"all three, {name}", sources, Recipe(reranker=judge))
            for name, judge in judges.items()
        ]
        rows += [
            System(f"all three, end by {name}", sources, Recipe(end_rule=rule))
            for name, rule in END_RULES.items()
            if rule is not Recipe().end_rule
        ]
    return rows


def run(system: System, problems: Sequence[Problem]) -> Result:
    """Answer every problem as a chat."""
    begun = time.perf_counter()
    generations = SegmentDecoder(system.sources, system.recipe).generate_batch(
        chats(problems), Request(max_new_tokens=120)
    )
    right = solved([generation.text for generation in generations], problems)
    return Result(right, generations, time.perf_counter() - begun)


def run_reranked(
    sources: Sequence[Source], alone: Mapping[str, Result], problems: Sequence[Problem]
) -> Result:
    """Let all sources choose among the whole answers that each gave ``alone``; no steps."""
    begun = time.perf_counter()
    answers = zip(*(alone[source.name].generations for source in sources), strict=True)
    candidates = [
        candidates_of(
            [(s.name, each.text, each.stop_reason) for s, each in zip(sources, row, strict=True)]
        )
        for row in answers
    ]
    rankings = rerank(sources, chats(problems), candidates, Recipe().reranker)
    right = solved([ranking.text for ranking in rankings], problems)
    spent = sum(result.seconds for result in alone.values())
    return Result(right, [], spent + time.perf_counter() - begun)


def chats(problems: Sequence[Problem]) -> list[list[dict[str, str]]]:
    """Every problem as a chat of one message."""
    return [[{"role": "user", "content": problem.question}] for problem in problems]


def solved(texts: Sequence[str], problems: Sequence[Problem]) -> list[bool]:
    """Which answers are right."""
    return [
        extract_answer(text) == problem.answer
        for text, problem in zip(texts, problems, strict=True)
    ]


def row_of(
    name: str, result: Result, problems: Sequence[Problem], skills: Sequence[str]
) -> list[str]:
    """One table row: overall share with its interval, shares by skill, cost."""
    by_skill = [
        [ok for ok, problem in zip(result.right, problems, strict=True) if problem.skill == skill]
        for skill in skills
    ]
    steps = [step for generation in result.generations for step in generation.steps]
    contested = f"{sum(step.contested for step in steps) / len(steps):.2f}" if steps else ""
    return [
        name,
        with_interval(sum(result.right), len(problems)),
        *(f"{sum(part) / len(part):.2f}" for part in by_skill),
        contested,
        f"{result.seconds / len(problems) * 1000:.0f}",
    ]


def oracle(alone: Mapping[str, Result]) -> int:
    """How many problems at least one source solves."""
    return sum(
        any(answers) for answers in zip(*(result.right for result in alone.values()), strict=True)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Word problems solved by each source and fused.")
    parser.add_argument("--split", choices=sorted(SEEDS), default="test")
    parser.add_argument("--count", type=int, default=400)
    arguments = parser.parse_args()
    problems = generate(arguments.count, seed=SEEDS[arguments.split], split=arguments.split)
    skills = sorted({problem.skill for problem in problems})
    sources = [load_source(path, path.name) for path in builtin_paths()]
    results: dict[str, Result] = {}
    for system in systems(sources, arguments.split):
        results[system.name] = run(system, problems)
        print(system.name, sum(results[system.name].right), flush=True)
    alone = {source.name: results[source.name] for source in sources}
    results["all three, whole answers reranked"] = run_reranked(sources, alone, problems)
    rows = [row_of(name, result, problems, skills) for name, result in results.items()]
    rows.append(
        ["(solved by at least one source)", with_interval(oracle(alone), len(problems))]
        + [""] * (len(skills) + 2)
    )
    heading = f"{len(problems)} {arguments.split} problems, share solved (95 % interval)\n\n"
    header = ["system", "all", *skills, "contested steps", "ms per answer"]
    finish(
        f"quality_{arguments.split}",
        {
            "split": arguments.split,
            "count": len(problems),
            "solved": {name: sum(result.right) for name, result in results.items()},
            "solved_by_any": oracle(alone),
        },
        heading + table(header, rows),
    )


if __name__ == "__main__":
    main()
