"""What a search found, as Markdown with a plot, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coolfusion.documents import json_ready, json_text
from coolfusion.errors import CoolfusionError
from coolfusion.evaluation.tables import markdown_table, markdown_text
from coolfusion.swarm.plot import plot
from coolfusion.swarm.result import Result, SwarmTrial

ENDINGS = {"patience": "the best was not improved", "iterations": "all iterations were made"}


def write_report(result: Result, folder: Path) -> None:
    """Write report.md, search.svg and report.json. Raises ``CoolfusionError`` where that fails."""
    expert = result.alone[result.best_expert].utility
    title = f"Utility: {', '.join(result.measures)}"
    files = {
        "report.md": as_markdown(result),
        "search.svg": plot(result.winner.iterations, expert, title) if _works(expert) else None,
        "report.json": json_text(as_dict(result), indent=1) + "\n",
    }
    try:
        for name, text in files.items():
            if text is not None:
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CoolfusionError(
            f'The report cannot be written to "{folder}": {error.strerror}. The checkpoint is complete; make room '
            "and run again for the report, which evaluates nothing."
        ) from error


def as_markdown(result: Result) -> str:
    """The whole report."""
    best, winner = result.best, result.winner
    expert = result.alone[result.best_expert]
    lines = [
        f"# Model Swarms: {markdown_text(', '.join(result.measures))}",
        "",
        f"Best utility {_number(best.utility)}; best expert {_number(expert.utility)} "
        f"({markdown_text(result.experts[result.best_expert])}).",
        "",
        *(["![The search](search.svg)", ""] if _works(expert.utility) else []),
        f"This is the largest of {result.num_evaluations} values on the same examples, so it is more than the "
        "particle will reach on others. Measure `best` beside the experts on rows that the search has not seen.",
        "",
        "## The experts and their shares",
        "",
        *markdown_table(
            ("expert", "share in the best", "utility alone", *_several(result.measures)),
            (
                (name, f"{share:+.4f}", _number(alone.utility), *_parts(alone.parts, result))
                for name, share, alone in zip(result.experts, best.point, result.alone, strict=True)
            ),
        ),
        "",
    ]
    if len(result.measures) > 1:
        lines += [
            "The utility is the harmonic mean. The best: "
            + ", ".join(
                f"{markdown_text(name)} {_number(part)}"
                for name, part in zip(result.measures, best.parts, strict=True)
            )
            + ".",
            "",
        ]
    lines += ["## The search", "", *_search(result, winner), ""]
    if len(result.trials) > 1:
        lines += ["## Trials", "", *_trials(result), ""]
    lines += ["## Iterations" + (" of the best trial" if len(result.trials) > 1 else ""), ""]
    lines += _iterations(winner)
    return "\n".join([*lines, ""])


def as_dict(result: Result) -> dict[str, Any]:
    """All of it as JSON-ready data; minus infinity becomes text."""
    data: dict[str, Any] = json_ready(asdict(result))
    return {**data, "checkpoint": result.checkpoint.name}


def _search(result: Result, winner: SwarmTrial) -> list[str]:
    plan = result.plan
    used = winner.coefficients
    failed = f"; {result.num_failed} did not work" if result.num_failed else ""
    start = winner.iterations[0].utilities
    return [
        f"- {plan.num_particles} particles; iterations: {len(winner.iterations) - 1} "
        f"({ENDINGS[winner.ended]}), seed {plan.seed}",
        f"- inertia {used.inertia:g}, cognitive {used.cognitive:g}, social {used.social:g}, repel {used.repel:g}; "
        f"step length {used.step_length:g}, times {used.decay:g} each iteration, at least {used.floor:g}",
        f"- patience {plan.limits.patience}, restart after {plan.limits.restart} iterations, crossover up to "
        f"{plan.reach:g}",
        f"- {result.num_evaluations} evaluations of {result.seconds / result.num_evaluations:.2f} s{failed}",
        f"- at the start: best {_number(max(start))}, worst {_number(min(start))}",
    ]


def _trials(result: Result) -> list[str]:
    return markdown_table(
        ("trial", "inertia", "cognitive", "social", "repel", "step length", "iterations", "best"),
        (
            (
                str(number),
                *(
                    f"{value:g}"
                    for value in (*each.coefficients.phi, each.coefficients.step_length)
                ),
                str(len(each.iterations) - 1),
                _number(each.best.utility) + (" (best)" if each is result.winner else ""),
            )
            for number, each in enumerate(result.trials, 1)
        ),
    )


def _iterations(trial: SwarmTrial) -> list[str]:
    def row(number: int) -> Sequence[str]:
        each = trial.iterations[number]
        working = [utility for utility in each.utilities if _works(utility)]
        mean = math.fsum(working) / len(working) if working else -math.inf
        values = (each.best, max(each.utilities), mean, min(each.utilities))
        return (str(number), *map(_number, values), str(each.num_restarted))

    return markdown_table(
        ("iteration", "best so far", "highest", "mean", "lowest", "restarted"),
        map(row, range(len(trial.iterations))),
    )


def _several(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) > 1 else ()


def _parts(parts: Sequence[float], result: Result) -> list[str]:
    if len(result.measures) < 2:
        return []
    return [_number(part) for part in parts] or ["" for _ in result.measures]


def _number(value: float) -> str:
    return f"{value:.4f}" if _works(value) else "does not work"


def _works(value: float) -> bool:
    return value > -math.inf
