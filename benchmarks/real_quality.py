"""Does fusing two real pretrained models answer more than the better of them, on real data?

The sources are SmolLM2-135M-Instruct and Gemma-3-270M (a base model). Both continue plain prompts,
without chat templates, in float32. Bad news would be a fusion below the better source, below
reranked whole answers, or below votes at equal compute. The formats of the tasks were chosen on
the development rows (``--split dev``). The test rows, looked at once, are the default.

    COOLFUSION_PAIR=MODELS COOLFUSION_REAL=FOLDER python -m benchmarks.real_quality --work KEPT

COOLFUSION_PAIR holds the folders of the two models, and COOLFUSION_REAL a folder ``data`` with
TriviaQA and TinyStories. Answers are kept in KEPT, and the same command continues where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import regex

from benchmarks._results import finish, table, wilson
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.recipe import PRESETS
from coolfusion.evaluation import (
    EvaluationPlan,
    Outcome,
    Record,
    Report,
    SystemResult,
    as_dict,
    evaluate,
    make_task,
)

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
BATCH = 16
COUNTS = {"dev": 40, "test": 300}
SHOTS = 4
ANSWERED = {
    "What is the capital of France?": "Paris",
    "Who wrote the play Hamlet?": "William Shakespeare",
    "Which planet is known as the red planet?": "Mars",
    "How many legs does a spider have?": "Eight",
}
SENTENCE = regex.compile(r"(?<=[.!?] )([A-Z][A-Za-z ,'-]+) ([a-z]{3,})[.!?](?= |$)")
SYSTEMS = ("rerank", "self_consistency", "majority", "mixture")
NAMES = {
    "rerank": "whole answers reranked",
    "majority": "votes of both",
    "mixture": "mixture of distributions",
    "fusion": "fusion, default preset",
}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A task: its rows of development and test, the metric, and when an answer stops."""

    name: str
    rows: Mapping[str, Rows]
    metric: str
    request: Request


def trivia(data: Path) -> Kind:
    """The shortest questions of TriviaQA after four answered ones. An accepted answer counts."""
    shots = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in ANSWERED.items())
    records = _records(data / "triviaqa" / "dev.jsonl")
    shortest = sorted(records, key=lambda record: len(record["question"]))[: sum(COUNTS.values())]
    rows = [
        {"prompt": f"{shots}Q: {record['question']}\nA:", "reference": record["answers"]}
        for record in records
        if record in shortest
    ]
    return Kind("trivia", _split(rows), "contains", Request(max_new_tokens=12, stop=("\n",)))


def cloze(data: Path) -> Kind:
    """The last word of a sentence of a TinyStories opening, which stands alone."""
    openings = _records(data / "tinystories" / "prompts.jsonl")
    text = " ".join(
        f"{opening['prompt']} {opening['continuation'].strip()}" for opening in openings
    )
    found = dict.fromkeys(SENTENCE.findall(text))
    rows = [
        {"prompt": start, "reference": word}
        for start, word in found
        if 4 <= start.count(" ") + 1 <= 13
    ]
    return Kind(
        "cloze",
        _split(rows),
        r"exact_match:^\W*(\w+)",
        Request(max_new_tokens=3, stop=(".", ",", "\n")),
    )


def arithmetic(_: Path) -> Kind:
    """Sums and differences of numbers up to 99, after four solved ones; no problem comes twice."""
    draw = random.Random(0)
    problems = [(a, sign, b) for a in range(10, 100) for b in range(10, a) for sign in "+-"]
    chosen = draw.sample(problems, SHOTS + sum(COUNTS.values()))
    solved = [(f"{a} {sign} {b} =", a + b if sign == "+" else a - b) for a, sign, b in chosen]
    shots = "".join(f"{question} {answer}\n" for question, answer in solved[:SHOTS])
    rows = [
        {"prompt": shots + question, "reference": answer} for question, answer in solved[SHOTS:]
    ]
    return Kind("arithmetic", _split(rows), "last_number", Request(max_new_tokens=6, stop=("\n",)))


KINDS = {"trivia": trivia, "cloze": cloze, "arithmetic": arithmetic}


def _records(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _split(rows: Rows) -> dict[str, Rows]:
    """Development rows come first, and test rows follow."""
    dev, test = COUNTS["dev"], COUNTS["test"]
    return {"dev": rows[:dev], "test": rows[dev : dev + test]}


@dataclass(frozen=True)
class Measured:
    """The reports of a task. That of the paper's preset has the same sources and its own fusion."""

    default: Report
    paper: Report
    record: Record


def run(
    kind: Kind, split: str, sources: Sequence[Source], systems: Sequence[str], kept: Path
) -> Measured:
    """Let every system answer the rows of a split that ``kept`` has no answer for."""
    task = make_task(kind.name, kind.rows[split])
    about = {"task": kind.name, "split": split, "rows": len(task.rows)}

    def measure(
        preset: str, planned: Sequence[str], known: Mapping[Any, Outcome]
    ) -> tuple[Report, Record]:
        with Record(kept / f"{kind.name}_{split}_{preset}.jsonl", about) as record:
            for pair, outcome in known.items():
                if pair not in record.outcomes:
                    record.add(outcome)
            report = evaluate(
                SegmentDecoder(sources, PRESETS[preset]),
                task,
                metric=kind.metric,
                request=kind.request,
                plan=EvaluationPlan(tuple(planned), batch_size=BATCH),
                record=record,
                progress=partial(_tell, f"{kind.name}, {preset} preset"),
            )
        return report, record

    default, record = measure("default", systems, {})
    names = {source.name for source in sources}
    alone = {pair: outcome for pair, outcome in record.outcomes.items() if pair[0] in names}
    return Measured(default, measure("paper", ["fusion"], alone)[0], record)


def _tell(what: str, system: str, done: int, total: int) -> None:
    if done in (0, total):
        print(f"{what}: {system} {done}/{total}", flush=True)


def table_of(measured: Measured) -> str:
    """A table of all systems, and what the fusion won and lost."""
    default, paper = measured.default, measured.paper.result("fusion")
    rows = [_cells(NAMES.get(each.name, each.name), each) for each in default.results]
    rows += [
        _cells("fusion, paper preset", paper),
        ["(at least one source right)", *_oracle(default)],
    ]
    header = ["system", "right", "p", "fixed", "broken", "tokens"]
    fused = default.result("fusion")
    notes = [
        f"p, fixed and broken: against {default.best_source}, the better source. tokens: computed "
        "for one row, by all models together.",
        f"{fused.num_contested} of {fused.num_steps} steps of the fusion are contested.",
        f"Of the {len(fused.broken)} rows that the fusion breaks, {_lost_at_once(measured)} begin with "
        "the weaker source's first word instead of the better one's.",
    ]
    title = f"### {default.task}: {len(default.rows)} rows, {default.metric}"
    return "\n".join([title, "", table(header, rows), "", *(f"- {each}" for each in notes), ""])


def _cells(name: str, result: SystemResult) -> list[str]:
    is_best = result.p_value is None
    return [
        name,
        _share(result.mean, result.interval),
        "" if result.p_value is None else f"{result.p_value:.2g}",
        "" if is_best else str(len(result.fixed)),
        "" if is_best else str(len(result.broken)),
        f"{result.num_forwarded:.0f}",
    ]


def _share(mean: float, interval: tuple[float, float]) -> str:
    return f"{mean:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def _oracle(report: Report) -> list[str]:
    """The row of an oracle that knows which source is right."""
    right = sum(any(values) for values in zip(*_of_sources(report), strict=True))
    share = right / len(report.rows)
    return [_share(share, wilson(right, len(report.rows))), "", "", "", ""]


def _of_sources(report: Report) -> list[tuple[float | None, ...]]:
    return [report.result(name).values for name in MODELS]


def _lost_at_once(measured: Measured) -> int:
    """Rows broken by the fusion in which the weaker source wrote the first word."""
    better = measured.default.best_source
    (weaker,) = set(MODELS) - {better}

    def first(system: str, row: str | int) -> list[str]:
        return measured.record.outcomes[system, row].text.split()[:1]

    return sum(
        first("fusion", row) == first(weaker, row) != first(better, row)
        for row in measured.default.result("fusion").broken
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Questions answered by each source and fused.")
    parser.add_argument("--work", type=Path, required=True, help="where answers are kept")
    parser.add_argument("--split", choices=sorted(COUNTS), default="test")
    parser.add_argument("--only", choices=sorted(KINDS), help="one task (default: all)")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help="beside sources and fusion, by commas"
    )
    arguments = parser.parse_args()
    pair, data = (Path(os.environ[name]) for name in ("COOLFUSION_PAIR", "COOLFUSION_REAL"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    sources = [load_source(pair / name, name, dtype="float32") for name in MODELS]
    systems = ["fusion", *filter(None, arguments.systems.split(","))]
    found = {
        name: run(kind(data / "data"), arguments.split, sources, systems, arguments.work)
        for name, kind in KINDS.items()
        if arguments.only in (None, name)
    }
    finish(
        f"real_quality_{arguments.split}",
        {
            name: as_dict(each.default) | {"paper": as_dict(each.paper)}
            for name, each in found.items()
        },
        "\n".join(map(table_of, found.values())),
    )


if __name__ == "__main__":
    main()
