"""A whole search: from experts and a utility to the best checkpoint, a log and a report."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from coolfusion.checks.arguments import checked
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.merging import merge
from coolfusion.merging.build import provenance
from coolfusion.merging.merged import MergedCheckpoint
from coolfusion.search import Coefficients, Evaluated, Point
from coolfusion.swarm.evaluator import Evaluator, OneByOne
from coolfusion.swarm.experts import Experts
from coolfusion.swarm.log import Evaluation, SwarmLog
from coolfusion.swarm.output import (
    BEST,
    LOG,
    check_space,
    check_target,
    emptied,
    scratch_folder,
)
from coolfusion.swarm.plan import SwarmPlan
from coolfusion.swarm.processes import SideBySide
from coolfusion.swarm.report import write_report
from coolfusion.swarm.result import (
    Iteration,
    Result,
    SwarmProgress,
    SwarmTrial,
)
from coolfusion.swarm.utility import Utility


@checked
def swarm(
    experts: Experts,
    utility: Utility,
    output: str | Path,
    *,
    plan: SwarmPlan | None = None,
    devices: Sequence[str | None] = (None,),
    scratch: str | Path | None = None,
    progress: Callable[[SwarmProgress], None] | None = None,
) -> Result:
    """Search between ``experts`` for the particle of highest ``utility``.

    The folder ``output`` gets the checkpoint "best", the log "evaluations.jsonl" and a report. If
    it has a log of the same experts and utility, the search resumes from it. Each device
    evaluates one particle at a time, in this process if there is one device. Particles are
    written to ``scratch`` during their evaluation (default: in ``output``).

    The same arguments find the same particle. Raises ``LoadError`` for experts that cannot be
    read, ``UsageError`` for arguments that allow no search, and ``CoolfusionError`` if an
    evaluation fails. Finished evaluations are always kept.
    """
    plan = plan or SwarmPlan()
    if not devices:
        raise UsageError("There is no device to evaluate on. Name one, or leave the choice open.")
    plan.start(len(experts.models))
    target = Path(os.path.abspath(output))
    check_target(target)
    particles = scratch_folder(target, scratch)
    opened = experts.open()
    size = sum(info.num_bytes for info in opened.about.infos.values())
    check_space(target, particles, size, len(devices))
    settings = _settings(experts, utility, opened)
    target.mkdir(exist_ok=True)
    with SwarmLog(target / LOG, settings) as log:
        with emptied(particles):
            evaluator: Evaluator = OneByOne(opened, utility, particles, devices[0])
            if len(devices) > 1:
                evaluator = SideBySide(experts, utility, particles, devices)
            with evaluator:
                run = _Run(plan, len(experts.models), log, evaluator, progress or (lambda _: None))
                trials = run.trials()
        best = max((trial.best for trial in trials), key=lambda found: found.utility)
        merge(experts.recipe(best.point), target / BEST, overwrite=True)
        visited = [log.evaluations[point] for point in run.visited]
        result = Result(
            checkpoint=target / BEST,
            experts=experts.names,
            measures=utility.names,
            best=log.evaluations[best.point],
            alone=tuple(visited[: len(experts.models)]),
            trials=tuple(trials),
            plan=plan,
            num_evaluations=len(visited),
            num_failed=sum(each.failure is not None for each in visited),
            num_new=len(run.new),
            seconds=math.fsum(each.seconds for each in visited),
        )
        write_report(result, target)
    return result


def _settings(experts: Experts, utility: Utility, opened: MergedCheckpoint) -> dict[str, Any]:
    """Everything that utilities depend on: input files, stored type, and the measures."""
    even = (1.0,) * len(experts.models)
    hashes = provenance(experts.recipe(even), opened)["inputs"].values()
    return {
        "experts": blake2b(" ".join(hashes).encode(), digest_size=8).hexdigest(),
        "num_experts": len(experts.models),
        "dtype": experts.dtype,
        "ignore": list(experts.ignore),
        **utility.identity(),
    }


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of ``swarm``.

    ``visited`` collects all points in the order of the search, ``new`` those that were not in the
    log.
    """

    plan: SwarmPlan
    num_experts: int
    log: SwarmLog
    evaluator: Evaluator
    progress: Callable[[SwarmProgress], None]
    visited: dict[Point, None] = field(default_factory=dict)
    new: list[Point] = field(default_factory=list)

    def trials(self) -> list[SwarmTrial]:
        outer, found = self.plan.outer(), list[SwarmTrial]()
        while points := outer.ask():
            found.append(self._trial(self.plan.setting(points[0]), found))
            outer = outer.tell([found[-1].best.utility])
        return found

    def _trial(self, coefficients: Coefficients, earlier: Sequence[SwarmTrial]) -> SwarmTrial:
        number, before = len(earlier), max((t.best.utility for t in earlier), default=-math.inf)
        search = self.plan.swarm(number, coefficients, self.num_experts)
        iterations: list[Iteration] = []
        best = Evaluated((), before)
        while points := search.ask():
            utilities = self._utilities(points, number, search.iteration, max(before, best.utility))
            restarted = int(search.restarted.sum())
            search = search.tell(utilities)
            best = search.best or best
            if best.utility == -math.inf:
                raise CoolfusionError(
                    f"No particle works, so there is nothing to search for. The first one: {self._failure(points[0])}"
                )
            iterations.append(Iteration(tuple(utilities), best.utility, restarted))
        return SwarmTrial(coefficients, tuple(iterations), best, search.ended or "")

    def _utilities(
        self, points: Sequence[Point], trial: int, iteration: int, best: float
    ) -> list[float]:
        known = self.log.evaluations

        def show() -> None:
            reached = max([best, *(known[point].utility for point in points if point in known)])
            self.progress(
                SwarmProgress(
                    trial,
                    iteration,
                    len(self.visited.keys() | (known.keys() & set(points))),
                    self.plan.most_evaluations,
                    len(self.new),
                    reached if reached > -math.inf else None,
                )
            )

        show()
        for evaluation in self.evaluator.evaluate(
            [point for point in dict.fromkeys(points) if point not in known]
        ):
            self.log.add(evaluation)
            self.new.append(evaluation.point)
            show()
        self.visited.update(dict.fromkeys(points))
        return [known[point].utility for point in points]

    def _failure(self, point: Point) -> str:
        evaluation: Evaluation = self.log.evaluations[point]
        return evaluation.failure or "it has no utility."
