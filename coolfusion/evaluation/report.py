"""From outcomes to a report: means with intervals, tests against the best source, breakdowns.

A report can be shown as text for a terminal, as Markdown, and as JSON-ready data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coolfusion.documents import json_ready
from coolfusion.errors import UsageError
from coolfusion.evaluation.metrics import Metric, MetricError
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.statistics import interval_of, paired_p_value
from coolfusion.evaluation.tables import (
    interval_cell,
    markdown_report,
    note,
    p_value_cell,
    text_report,
)
from coolfusion.evaluation.tasks import Row, Task
from coolfusion.types import Floats

HEADER = ("system", "score", "95 % interval", "p", "fixed", "broken", "tokens", "seconds")


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system on one task.

    ``values``: (rows of the task,), None where a row could not be answered or judged. All else is
    over the rows that every system has a value for. ``mean`` has a 95 % bootstrap ``interval``.
    ``p_value`` is of a paired test against the best source (None for that source). ``fixed`` and
    ``broken`` are ids of rows that it does better and worse than the best source.
    ``num_forwarded`` and ``seconds`` are means per row, what it builds on included. ``wins``:
    contested steps won by source; for reranked and voted answers, rows by author.
    """

    name: str
    values: tuple[float | None, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float | None
    fixed: tuple[str | int, ...]
    broken: tuple[str | int, ...]
    num_forwarded: float
    seconds: float
    wins: Mapping[str, int]
    num_steps: int
    num_contested: int


@dataclass(frozen=True, slots=True)
class Report:
    """A task, the metric, and every system on it. ``rows`` are ids in the task's order.

    ``num_used`` rows have a value for every system; ``failures`` says why others have none.
    """

    task: str
    metric: str
    higher_is_better: bool
    rows: tuple[str | int, ...]
    num_used: int
    best_source: str
    results: tuple[SystemResult, ...]
    failures: tuple[str, ...]

    def result(self, name: str) -> SystemResult:
        """The result of the system called ``name``. Raises ``UsageError`` if there is none."""
        for result in self.results:
            if result.name == name:
                return result
        raise UsageError(
            f'There is no system "{name}" in this report. It has {[r.name for r in self.results]}.'
        )


def judge(metric: Metric, row: Row, outcome: Outcome) -> float | None:
    """The value of an outcome, None where there is no answer. Raises ``MetricError``.

    For perplexity: the least over the references, in bits per UTF-8 byte.
    """
    if outcome.error is not None:
        return None
    if outcome.value is not None:
        return outcome.value
    if not metric.needs_likelihood:
        return metric.value(row, outcome.text)
    sizes = [len(reference.encode()) for reference in row.references]
    pairs = zip(outcome.log_likelihoods or (), sizes, strict=True)
    return min(-value / (size * math.log(2)) for value, size in pairs)


def judged(
    system: str,
    rows: Sequence[Row],
    metrics: Mapping[str | int, Metric],
    outcomes: Mapping[tuple[str, str | int], Outcome],
) -> tuple[Floats, list[str]]:
    """The values of a system's outcomes (rows,), NaN where there is none, and why there is none."""
    values, failures = np.full(len(rows), math.nan), []
    for number, row in enumerate(rows):
        outcome = outcomes[system, row.id]
        try:
            value = judge(metrics[row.id], row, outcome)
        except MetricError as error:
            failures.append(f"{system}: {error}")
            continue
        if value is None:
            failures.append(f"{system} has no answer to row {row.id!r}: {outcome.error}")
        else:
            values[number] = value
    return values, failures


def report_on(
    task: Task,
    metrics: Mapping[str | int, Metric],
    record: Record,
    sources: Sequence[str],
    systems: Sequence[str],
    *,
    seed: int = 0,
) -> Report:
    """Judge the outcomes of ``systems``, (systems, rows), and compare them with the best of
    ``sources``; of equally good sources the earlier is the best."""
    found = [judged(name, task.rows, metrics, record.outcomes) for name in systems]
    table = np.array([values for values, _ in found])
    usable: NDArray[np.bool_] = np.isfinite(table.sum(axis=0))
    higher = metrics[task.rows[0].id].higher_is_better
    means = {
        name: float(values[usable].mean()) if usable.any() else math.nan
        for name, values in zip(systems, table, strict=True)
    }
    best = max(sources, key=lambda name: means[name] if higher else -means[name])
    rival = table[list(systems).index(best)]
    rows = [row for r, row in enumerate(task.rows) if usable[r]]
    results = []
    for name, values in zip(systems, table, strict=True):
        gains = (values - rival)[usable] * (1 if higher else -1)
        outcomes = [list(_built_on(record, name, row)) for row in rows]
        own = [record.outcomes[name, row.id] for row in rows]
        results.append(
            SystemResult(
                name=name,
                values=tuple(None if math.isnan(value) else float(value) for value in values),
                mean=means[name],
                interval=interval_of(values[usable], seed),
                p_value=None
                if name == best or not rows
                else paired_p_value(values[usable], rival[usable], seed=seed),
                fixed=tuple(row.id for row, gain in zip(rows, gains, strict=True) if gain > 0),
                broken=tuple(row.id for row, gain in zip(rows, gains, strict=True) if gain < 0),
                num_forwarded=_mean([sum(o.total_forwarded for o in each) for each in outcomes]),
                seconds=_mean([sum(o.seconds for o in each) for each in outcomes]),
                wins=_summed(own),
                num_steps=sum(outcome.num_steps for outcome in own),
                num_contested=sum(outcome.num_contested for outcome in own),
            )
        )
    names = {each.name for each in metrics.values()}
    return Report(
        task=task.name,
        metric=", ".join(sorted(names)),
        higher_is_better=higher,
        rows=tuple(row.id for row in task.rows),
        num_used=len(rows),
        best_source=best,
        results=tuple(results),
        failures=tuple(failure for _, failures in found for failure in failures),
    )


def _built_on(record: Record, name: str, row: Row) -> Iterator[Outcome]:
    """The outcome of a system and, once each, all that it builds on."""
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            outcome = record.outcomes[current, row.id]
            waiting += outcome.needs
            yield outcome


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _summed(outcomes: Sequence[Outcome]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for outcome in outcomes:
        for name, count in outcome.wins.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def as_text(report: Report) -> str:
    """Aligned columns, and what they leave out below them."""
    return text_report(_title(report), HEADER, _rows(report), _notes(report))


def as_markdown(report: Report) -> str:
    """The same as a Markdown table and a list."""
    return markdown_report(_title(report), HEADER, _rows(report), _notes(report))


def as_dict(report: Report) -> dict[str, Any]:
    """All of a report; infinities become text and NaN becomes null."""
    data: dict[str, Any] = json_ready(dataclasses.asdict(report))
    return data


def _title(report: Report) -> str:
    direction = "" if report.higher_is_better else ", lower is better"
    count = f"{len(report.rows)} rows"
    if report.num_used < len(report.rows):
        count = f"{report.num_used} of {count}"
    return f"{report.task}: {report.metric}{direction}, {count}"


def _rows(report: Report) -> list[tuple[str, ...]]:
    return [_cells(result, result.name == report.best_source) for result in report.results]


def _cells(result: SystemResult, is_best_source: bool) -> tuple[str, ...]:
    return (
        result.name + (" (best source)" if is_best_source else ""),
        f"{result.mean:.3f}",
        interval_cell(result.interval),
        p_value_cell(result.p_value),
        "" if is_best_source else str(len(result.fixed)),
        "" if is_best_source else str(len(result.broken)),
        f"{result.num_forwarded:.0f}",
        f"{result.seconds:.3f}",
    )


def _notes(report: Report) -> list[str]:
    notes = [
        f"p, fixed and broken: against {report.best_source}, the best source. "
        "tokens, seconds: computed for one row."
    ]
    for result in report.results:
        counts = ", ".join(f"{name} {count}" for name, count in result.wins.items())
        if result.num_contested:
            notes.append(
                f"{result.name}: {result.num_contested} of {result.num_steps} steps contested; "
                f"won by {counts}."
            )
        elif not result.num_steps and result.wins:
            notes.append(f"{result.name}: answers by {counts}.")
    fused = report.results[-1]
    if fused.name != report.best_source:
        notes += note(f"{fused.name} fixed", [repr(row) for row in fused.fixed], ", ")
        notes += note(f"{fused.name} broke", [repr(row) for row in fused.broken], ", ")
    return notes + note("No value", report.failures)
