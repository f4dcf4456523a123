"""Shared by the benchmarks of weight space: systems, how they are built, and what that takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.word_problems import Problem
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.evaluation import Task, make_task, metric_named
from coolfusion.merging import Merge, merge
from coolfusion.swarm import Answering, Experts, SwarmPlan, TaskMeasure, Utility, swarm
from coolfusion.types import Generation

REQUEST = Request(max_new_tokens=120)
METRIC = "last_number"


class Answers(Protocol):
    """Whatever answers prompts: a fusion, a mixture, a single model."""

    def generate_batch(self, prompts: Sequence[Any], request: Request) -> list[Generation]:
        """One response for each prompt."""


# Ways to decode with all specialists at once; another way is one more entry.
TOGETHER: Mapping[str, Callable[[Sequence[Source]], Answers]] = {
    "segment fusion": SegmentDecoder,
    "token mixture": MixtureDecoder,
}


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table: its checkpoints, how they were arrived at, and what that took.

    ``dev``: share of the development problems solved; ``num_evaluations``: how many models were
    tried on these; ``seconds``: of the processor, for merging and for trying.
    """

    name: str
    paths: tuple[str, ...]
    kind: str
    chosen: str = ""
    dev: float = 0.0
    num_evaluations: int = 0
    seconds: float = 0.0

    def answers(self) -> Answers:
        """The system, loaded."""
        if len(self.paths) == 1:
            return SegmentDecoder([load_source(self.paths[0], "model")], speculation=None)
        sources = [load_source(path, Path(path).name) for path in self.paths]
        return TOGETHER[self.name](sources)


def task_of(problems: Sequence[Problem]) -> Task:
    """Problems as rows with a chat each."""
    rows = [
        {"messages": [{"role": "user", "content": each.question}], "reference": each.answer}
        for each in problems
    ]
    return make_task("word problems", rows)


def solved(answers: Answers, task: Task) -> list[float]:
    """1 for each row that is answered rightly, else 0."""
    generations = answers.generate_batch([row.prompt for row in task.rows], REQUEST)
    metric = metric_named(METRIC)
    return [
        metric.value(row, generation.text)
        for row, generation in zip(task.rows, generations, strict=True)
    ]


class Workshop:
    """Builds systems of a family's members, each at most once: what ``folder`` holds is read."""

    def __init__(self, members: Path, folder: Path, task: Task) -> None:
        self.members, self.folder, self.task = members, folder, task
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "built.json"
        kept = json.loads(self._file.read_text()) if self._file.exists() else []
        self._built = {
            entry["name"]: System(**{**entry, "paths": tuple(entry["paths"])}) for entry in kept
        }

    def built(self, name: str, build: Callable[[], System]) -> System:
        """The system of this name, built now if it was not before."""
        if name not in self._built:
            self._built[name] = build()
            text = json.dumps([asdict(system) for system in self._built.values()], indent=1)
            self._file.write_text(text)
            print(self._built[name], flush=True)
        return self._built[name]

    def given(self, name: str, path: Path, kind: str) -> System:
        """A checkpoint that is there already."""
        system = System(name, (str(path),), kind)
        return self.built(name, lambda: replace(system, dev=self._on_dev(system)))

    def together(self, name: str, names: Iterable[str]) -> System:
        """Members of the family that decode together, in the way of this name."""
        system = System(name, tuple(str(self.members / each) for each in names), "together")
        return self.built(name, lambda: replace(system, dev=self._on_dev(system)))

    def best_of(self, name: str, grid: Mapping[str, Merge], kind: str = "static") -> System:
        """The merge of a grid that solves most development problems, the first of equals."""

        def build() -> System:
            begun = time.process_time()
            merged = []
            for chosen, recipe in grid.items():
                output = self.folder / f"{name}, {chosen}"
                merge(recipe, output, overwrite=True)
                merged.append(System(name, (str(output),), kind, chosen))
            alone = time.process_time() - begun
            found = [replace(system, dev=self._on_dev(system)) for system in merged]
            best = max(found, key=lambda system: system.dev)
            if len(found) == 1:  # nothing to choose, so that it need not have been tried
                return replace(best, seconds=alone)
            seconds = time.process_time() - begun
            return replace(best, num_evaluations=len(found), seconds=seconds)

        return self.built(name, build)

    def searched(self, name: str, experts: Experts, plan: SwarmPlan) -> System:
        """The best particle of a Model Swarm."""

        def build() -> System:
            begun = time.process_time()
            how = Answering(max_new_tokens=REQUEST.max_new_tokens)
            utility = Utility((TaskMeasure(self.task, METRIC, how),))
            result = swarm(experts, utility, self.folder / name, plan=plan)
            shares = zip(result.experts, result.best.point, strict=True)
            return System(
                name,
                (str(result.checkpoint),),
                "swarm",
                ", ".join(f"{expert} {share:+.2f}" for expert, share in shares),
                result.best.utility,
                result.num_evaluations,
                time.process_time() - begun,
            )

        return self.built(name, build)

    def _on_dev(self, system: System) -> float:
        values = solved(system.answers(), self.task)
        return sum(values) / len(values)
