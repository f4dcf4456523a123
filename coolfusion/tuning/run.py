"""A run of tuning: settings are ranked on the tuning rows, and the best tested on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coolfusion.config.options import FusionConfig
from coolfusion.errors import CoolfusionError
from coolfusion.search import Point, run
from coolfusion.tuning.objectives import (
    Contender,
    Measured,
    Objective,
    RowsDone,
)
from coolfusion.tuning.plan import TuningPlan
from coolfusion.tuning.proposals import Proposals
from coolfusion.tuning.report import (
    UNTUNED,
    Entry,
    TuningReport,
    TuningTrial,
    split_results,
)
from coolfusion.tuning.space import label
from coolfusion.tuning.splits import Split


@dataclass(frozen=True, slots=True)
class TuningProgress:
    """The progress of tuning: ``what`` runs, with ``done`` of ``num_rows`` rows.

    ``trial`` counts the trials begun, of at most ``num_trials``. ``best`` is the setting that leads
    on the tuning rows, ``best_score`` its score (None: none yet).
    """

    what: str
    done: int
    num_rows: int
    trial: int
    num_trials: int
    best_score: float | None
    best: str


@dataclass(slots=True)
class TuningRun:
    """One call of ``tune``: the measurements so far, and the leading trial.

    ``search`` comes first, then ``report``. ``sources`` are names. ``measured`` has the values on
    the tuning rows by system. ``usable`` (rows,) marks the rows that count.
    """

    objective: Objective
    split: Split
    proposals: Proposals
    sources: list[str]
    base: FusionConfig
    progress: Callable[[TuningProgress], None]
    measured: dict[str, Measured] = field(default_factory=dict)
    usable: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    trials: list[TuningTrial] = field(default_factory=list)
    leader: TuningTrial | None = None

    def search(self) -> None:
        """Measure the baselines, then every proposed setting, on the tuning rows."""
        self._baselines()
        # The search needs utilities: higher is better, minus infinity for a setting without score.
        run(self.proposals.search, lambda points: [self._utility(point) for point in points])

    def report(self, task: str, metric: str, plan: TuningPlan) -> TuningReport:
        """Measure the best trials and the baselines on the held-out rows too, and compare them."""
        ranked = self._ranked()
        top = [trial for trial in ranked if trial.number][: plan.num_shown]
        chosen = ranked[0]
        contenders = [*self._alone(), Contender(UNTUNED, self.base)]
        contenders += [_contender(trial) for trial in top]
        best_source = self._best_source()
        shown = {each.name: each for each in contenders}
        on_tuning, num_tuning = split_results(
            self.split.tuning,
            {name: self.measured[each.system] for name, each in shown.items()},
            best_source,
            plan.seed,
        )
        unseen = {
            name: self.objective.measure(each, self.split.held_out, self._rows_done(name))
            for name, each in shown.items()
        }
        on_held_out, num_held_out = split_results(
            self.split.held_out, unseen, best_source, plan.seed
        )
        numbers = {_contender(trial).name: trial.number for trial in top}
        return TuningReport(
            task=task,
            metric=metric,
            higher_is_better=self.objective.higher_is_better,
            search=plan.search,
            seed=plan.seed,
            tuning_rows=tuple(row.id for row in self.split.tuning),
            held_out_rows=tuple(row.id for row in self.split.held_out),
            num_used=(num_tuning, num_held_out),
            best_source=best_source,
            chosen=_contender(chosen).name,
            entries=tuple(
                Entry(
                    name,
                    each.config,
                    numbers.get(name),
                    on_tuning[name],
                    on_held_out[name] if self.split.held_out else None,
                )
                for name, each in shown.items()
            ),
            trials=tuple(self.trials[1:]),
            failures=self._failures(unseen),
        )

    def _baselines(self) -> None:
        """Measure each source alone and the untuned fusion, which is trial 0 and can be chosen."""
        for contender in [*self._alone(), Contender(UNTUNED, self.base)]:
            self._measure(contender)
        table = np.array([each.values for each in self.measured.values()])
        self.usable = np.isfinite(table.sum(axis=0))
        if not self.usable.any():
            raise CoolfusionError(
                "No row of the tuning split has a value for every source and the untuned fusion, so "
                f"nothing can be compared. {self._failures({})[0]}"
            )
        self._enter(0, self.base)

    def _utility(self, point: Point) -> float:
        config = self.proposals.setting_at(point)
        number = len(self.trials)
        contender = Contender(f"trial {number}", config)
        if contender.system not in self.measured:
            self._measure(contender)
        score = self._enter(number, config).score
        if score is None:
            return -math.inf
        return score if self.objective.higher_is_better else -score

    def _enter(self, number: int, config: FusionConfig) -> TuningTrial:
        score, num_forwarded = self.measured[Contender("", config).system].over(self.usable)
        trial = TuningTrial(number, config, None if math.isnan(score) else score, num_forwarded)
        self.trials.append(trial)
        self.leader = self._ranked()[0]
        self._show(f"trial {number}" if number else UNTUNED, 1, 1)
        return trial

    def _measure(self, contender: Contender) -> None:
        self.measured[contender.system] = self.objective.measure(
            contender, self.split.tuning, self._rows_done(contender.name)
        )

    def _alone(self) -> list[Contender]:
        return [Contender(name) for name in self.sources]

    def _best_source(self) -> str:
        sign = 1 if self.objective.higher_is_better else -1
        return max(self.sources, key=lambda name: sign * self.measured[name].over(self.usable)[0])

    def _ranked(self) -> list[TuningTrial]:
        """Distinct settings with a score, the best first. The untuned one always has a score."""
        sign = -1 if self.objective.higher_is_better else 1
        distinct = {label(trial.config): trial for trial in reversed(self.trials)}
        scored = [(trial.score, trial) for trial in distinct.values() if trial.score is not None]
        scored.sort(key=lambda pair: (sign * pair[0], pair[1].num_forwarded, pair[1].number))
        return [trial for _, trial in scored]

    def _failures(self, unseen: Mapping[str, Measured]) -> tuple[str, ...]:
        every = [*self.measured.values(), *unseen.values()]
        return tuple(dict.fromkeys(text for each in every for text in each.failures))

    def _rows_done(self, what: str) -> RowsDone:
        return lambda done, num_rows: self._show(what, done, num_rows)

    def _show(self, what: str, done: int, num_rows: int) -> None:
        leader = self.leader
        self.progress(
            TuningProgress(
                what,
                done,
                num_rows,
                max(0, len(self.trials) - 1),
                self.proposals.num_trials,
                None if leader is None else leader.score,
                ""
                if leader is None
                else f"{_contender(leader).name} {label(leader.config)}".strip(),
            )
        )


def _contender(trial: TuningTrial) -> Contender:
    return Contender(f"trial {trial.number}" if trial.number else UNTUNED, trial.config)
