"""A run of an evaluation: every system over every row, recorded at once, then a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from coolfusion.backends.base import forget
from coolfusion.checks.arguments import checked
from coolfusion.decoding.answers.rerank import FUSED, sample_requests
from coolfusion.decoding.decoder import Decoder
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.errors import UsageError
from coolfusion.evaluation import systems
from coolfusion.evaluation.metrics import Metric
from coolfusion.evaluation.plan import EvaluationPlan, row_metrics
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.report import Report, judged, report_on
from coolfusion.evaluation.systems import SYSTEMS, PromptOf, RequestOf, System
from coolfusion.evaluation.tasks import Row, Task

Progress = Callable[[str, int, int], None]


@checked
def evaluate(
    decoder: SegmentDecoder,
    task: Task,
    *,
    fused: Decoder[Any] | None = None,
    metric: str = "exact_match",
    request: Request | None = None,
    plan: EvaluationPlan | None = None,
    record: Record | None = None,
    prompt_of: PromptOf | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the planned systems over ``task`` and report on them.

    - ``metric``: for rows without one of their own.
    - ``request``: a row's own options replace those of it. How samples for votes are drawn is the
      plan's alone.
    - ``record``: its pairs of system and row are not run again, unless they have an error.
    - ``prompt_of``: maps a row to the prompt of the sources (default: the row's prompt).
    - ``progress``: called with (system, finished rows, all rows).
    - ``fused``: the decoder of the system ``fusion`` (default: ``decoder``).

    Raises ``UsageError`` for arguments that do not fit the task. A row without an answer or a
    value is reported, and the others are not affected.
    """
    task.check_names([source.name for source in decoder.sources])
    run = _Run(
        decoder,
        fused or decoder,
        task,
        row_metrics(task, metric),
        request or Request(),
        plan or EvaluationPlan(),
        record if record is not None else Record(),
        prompt_of or (lambda row: row.prompt),
        progress or (lambda *_: None),
    )
    run.record.check_rows(task.rows)
    ran = run.score_references() if run.scores_references else run.answer()
    return report_on(task, run.metrics, run.record, run.names, ran, seed=run.plan.seed)


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of ``evaluate``: its arguments, and the order in which systems run."""

    decoder: SegmentDecoder
    fused: Decoder[Any]
    task: Task
    metrics: dict[str | int, Metric]
    request: Request
    plan: EvaluationPlan
    record: Record
    prompt_of: PromptOf
    progress: Progress

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.decoder.sources)

    @property
    def scores_references(self) -> bool:
        return self.metrics[self.task.rows[0].id].needs_likelihood

    def score_references(self) -> list[str]:
        """Run the systems that have a log-likelihood, and return their names in order."""
        mixes = any(map(systems.is_mixture, self.plan.systems))
        if mixes or isinstance(self.fused, MixtureDecoder):
            raise UsageError(
                "Under perplexity the sources score whole references, and the fusion's number is their "
                "weighted mean; mixtures of distributions have none. Leave the mixture out, or choose "
                "a metric of answers."
            )
        ran = [
            systems.scoring(source, self.prompt_of, self.plan.batch_size)
            for source in self.decoder.sources
        ]
        if FUSED in self.plan.systems:
            ran.append(systems.combining(FUSED, self.decoder))
        return self._run_all(ran)

    def answer(self) -> list[str]:
        """Run all planned systems, and return their names in the order of the report."""
        planned = self.plan.systems
        self._check_names()
        mixtures = [self._mixing(name) for name in planned if systems.is_mixture(name)]
        ran = [self._alone(name, self._request, k) for k, name in enumerate(self.names)]
        fused = systems.decoding(
            FUSED, self.fused, self._request, self.prompt_of, self.plan.batch_size
        )
        if FUSED in planned or "cool_r" in planned:
            ran.append(fused)
        self._run_all(ran)
        reranked = []
        if "rerank" in planned:
            reranked.append(self._reranking("rerank", self.names))
        if "cool_r" in planned:
            reranked.append(self._reranking("cool_r", (*self.names, FUSED)))
        self._run_all(reranked)
        order = [*ran, *reranked, *self._votes(), *mixtures]
        self._run_all(mixtures)
        # The fusion is the system under test, so it comes last.
        order.sort(key=lambda system: system.name == FUSED)
        return [system.name for system in order]

    def _votes(self) -> list[System]:
        """Self-consistency of the best source and the majority of all, over shared samples."""
        planned, voters = self.plan.systems, {}
        if not {"self_consistency", "majority"} & set(planned):
            return []
        counts = self._num_samples()
        if "self_consistency" in planned:
            best = self._best_source()
            voters[f"self_consistency({best})"] = {best: counts[best]}
        if "majority" in planned:
            voters["majority"] = dict.fromkeys(self.names, counts["majority"])
        requests = sample_requests(
            replace(self.request, sampling=self.plan.sampling),
            max(count for voter in voters.values() for count in voter.values()),
        )
        samples: dict[str, System] = {}
        votes = []
        for title, voter in voters.items():
            authors = {}
            for name, count in voter.items():
                for number, request in enumerate(requests[:count]):
                    sample = f"{name}#{number}"
                    authors[sample] = name
                    k = self.names.index(name)
                    samples[sample] = self._alone(sample, self._sampling(request), k)
            votes.append(systems.voting(title, authors, lambda row: self.metrics[row.id].extract))
        self._run_all([*samples.values(), *votes])
        return votes

    def _num_samples(self) -> dict[str, int]:
        """Numbers of samples for each source's own vote and, as "majority", for the vote of all."""
        if self.plan.num_samples is not None:
            return dict.fromkeys([*self.names, "majority"], self.plan.num_samples)
        if not self.record.num_samples:
            spent = {name: self._forwarded(name) for name in (*self.names, FUSED)}
            counts = {
                name: max(1, round(spent[FUSED] / max(1, spent[name]))) for name in self.names
            }
            together = sum(spent[name] for name in self.names)
            counts["majority"] = max(1, round(spent[FUSED] / max(1, together)))
            self.record.fix_samples(counts)
        return self.record.num_samples

    def _forwarded(self, system: str) -> float:
        outcomes = [self.record.outcomes[system, row.id] for row in self.task.rows]
        return sum(outcome.total_forwarded for outcome in outcomes)

    def _best_source(self) -> str:
        values = {
            name: judged(name, self.task.rows, self.metrics, self.record.outcomes)[0]
            for name in self.names
        }
        usable = ~np.isnan(np.array(list(values.values()))).any(axis=0)
        if not usable.any():
            return self.names[0]
        sign = 1 if self.metrics[self.task.rows[0].id].higher_is_better else -1
        return max(self.names, key=lambda name: sign * float(values[name][usable].mean()))

    def _request(self, row: Row) -> Request:
        return row.request(self.request)

    def _sampling(self, sample: Request) -> RequestOf:
        """A sample as its row bounds it. With the row's own seed, all samples would be the same."""
        return lambda row: replace(row.request(sample), sampling=sample.sampling)

    def _alone(self, name: str, request_of: RequestOf, k: int) -> System:
        alone = SegmentDecoder([self.decoder.sources[k]])
        return systems.decoding(name, alone, request_of, self.prompt_of, self.plan.batch_size)

    def _mixing(self, name: str) -> System:
        mixture = systems.mixture_named(name, self.decoder.recipe)
        mixer = MixtureDecoder(self.decoder.sources, mixture)
        return systems.decoding(name, mixer, self._request, self.prompt_of, self.plan.batch_size)

    def _reranking(self, name: str, needs: Sequence[str]) -> System:
        return systems.reranking(
            name,
            self.decoder,
            needs,
            self.prompt_of,
            batch_size=self.plan.batch_size,
            on_source_error=self.request.on_source_error,
        )

    def _check_names(self) -> None:
        for name in self.names:
            taken = name in SYSTEMS or name.startswith("self_consistency(")
            if taken or "#" in name or systems.is_mixture(name):
                raise UsageError(
                    f'A source is named "{name}", which is the name of a system here. Name it otherwise.'
                )

    def _run_all(self, some: Sequence[System]) -> list[str]:
        for system in some:
            # Each system starts from nothing, so that it costs what it would cost alone. What an
            # earlier one left cached would be a gift, and equal compute would not be equal.
            for source in self.decoder.sources:
                forget(source.backend)
            answer_rows(system, self.task.rows, self.record, partial(self.progress, system.name))
        return [system.name for system in some]


def answer_rows(
    system: System, rows: Sequence[Row], record: Record, progress: Callable[[int, int], None]
) -> None:
    """Let a system answer the rows that the record has no good outcome for, each kept at once.

    Rows whose needs have no answer pass that on. ``progress`` is called with (rows finished,
    of how many).
    """
    todo = []
    for row in rows:
        if record.finished(system.name, row, system.digest(row), system.needs) is None:
            missing = _missing(system, row, record)
            if missing is None:
                todo.append(row)
            else:
                record.add(missing)
    progress(len(rows) - len(todo), len(rows))
    for number, outcome in enumerate(system.answer(todo, record.outcomes), 1):
        record.add(outcome)
        progress(len(rows) - len(todo) + number, len(rows))


def _missing(system: System, row: Row, record: Record) -> Outcome | None:
    for need in system.needs:
        if record.outcomes[need, row.id].error is not None:
            error = f"It builds on {need}, which has no answer."
            return Outcome(system.name, row.id, system.digest(row), error=error, needs=system.needs)
    return None
