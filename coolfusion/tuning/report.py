"""What tuning found: the best trials on both splits, beside the untuned fusion and each source.

A report can be shown as text for a terminal, as Markdown, and as JSON-ready data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coolfusion.config.options import FusionConfig
from coolfusion.documents import json_ready
from coolfusion.errors import UsageError
from coolfusion.evaluation.statistics import interval_of, paired_p_value
from coolfusion.evaluation.tables import (
    interval_cell,
    markdown_report,
    note,
    p_value_cell,
    text_report,
)
from coolfusion.evaluation.tasks import Row
from coolfusion.tuning.objectives import Measured
from coolfusion.tuning.space import label

UNTUNED = "untuned"
HEADER = (
    "system",
    "tuning",
    "95 % interval",
    "held out",
    "95 % interval",
    "p",
    "tokens",
    "setting",
)
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class SplitResult:
    """One contender on one split, over the rows that all shown contenders have a value for.

    - ``values``: (rows of the split,); None for a row without a value.
    - ``interval``: 95 % bootstrap interval of the ``mean``.
    - ``p_value``: paired and two-sided, against the source that is best on the tuning split; None
      for that source.
    - ``num_forwarded``: mean number of tokens drafted and scored for a row.
    """

    values: tuple[float | None, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float | None
    num_forwarded: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender of the report: a source alone (no ``config``), the untuned fusion, or a trial.

    ``trial`` is the number of a trial from 1, else None. ``held_out`` is None if no rows were held
    out.
    """

    name: str
    config: FusionConfig | None
    trial: int | None
    tuning: SplitResult
    held_out: SplitResult | None


@dataclass(frozen=True, slots=True)
class TuningTrial:
    """A setting that was tried: its number from 1, and its mean value and tokens per tuning row.

    ``score`` is None if a row has no value; such a setting cannot be chosen.
    """

    number: int
    config: FusionConfig
    score: float | None
    num_forwarded: float


@dataclass(frozen=True, slots=True)
class TuningReport:
    """The search and its result.

    - ``entries``: the sources, the untuned fusion, and the best trials.
    - ``chosen``: the name of the best of the untuned fusion and all trials on the tuning split.
    - ``tuning_rows``, ``held_out_rows``: ids.
    - ``num_used``: how many of each have a value for every entry.
    - ``failures``: why the others have none.
    """

    task: str
    metric: str
    higher_is_better: bool
    search: str
    seed: int
    tuning_rows: tuple[str | int, ...]
    held_out_rows: tuple[str | int, ...]
    num_used: tuple[int, int]
    best_source: str
    chosen: str
    entries: tuple[Entry, ...]
    trials: tuple[TuningTrial, ...]
    failures: tuple[str, ...]

    def entry(self, name: str) -> Entry:
        """The entry called ``name``. Raises ``UsageError`` if there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise UsageError(
            f'There is no entry "{name}" in this report. It has {[e.name for e in self.entries]}.'
        )

    @property
    def best(self) -> FusionConfig:
        """The chosen setting."""
        return self.entry(self.chosen).config or FusionConfig()


def split_results(
    rows: Sequence[Row], measured: Mapping[str, Measured], rival: str, seed: int
) -> tuple[dict[str, SplitResult], int]:
    """Results by contender, and the number of rows that all of them have a value for."""
    table = np.array([each.values for each in measured.values()])
    usable = np.isfinite(table.sum(axis=0)) if rows else np.zeros(0, dtype=np.bool_)
    against = measured[rival].values[usable]
    results = {}
    for name, each in measured.items():
        mean, num_forwarded = each.over(usable)
        values = each.values[usable]
        results[name] = SplitResult(
            tuple(None if math.isnan(value) else float(value) for value in each.values),
            mean,
            interval_of(values, seed),
            None
            if name == rival or not values.size
            else paired_p_value(values, against, seed=seed),
            num_forwarded,
        )
    return results, int(usable.sum())


def as_text(report: TuningReport) -> str:
    """Aligned columns, and what they mean below them."""
    rows, words = _rows(report), (0, len(HEADER) - 1)
    return text_report(_title(report), HEADER, rows, _notes(report), words=words)


def as_markdown(report: TuningReport) -> str:
    """The same as a Markdown table and a list."""
    return markdown_report(_title(report), HEADER, _rows(report), _notes(report))


def as_dict(report: TuningReport) -> dict[str, Any]:
    """All of a report, every trial included; infinities become text and NaN becomes null.

    Of a setting there is what it says, as in a fusion file.
    """
    data = dataclasses.asdict(report)
    for name in ("entries", "trials"):
        for each, shown in zip(getattr(report, name), data[name], strict=True):
            shown["config"] = None if each.config is None else each.config.said()
    ready: dict[str, Any] = json_ready(data)
    return ready


def verdicts(report: TuningReport) -> list[str]:
    """What the chosen setting is worth on rows it was not chosen by, in sentences."""
    chosen = report.entry(report.chosen)
    if chosen.held_out is None:
        return [
            "No rows were held out, so nothing says what the chosen setting is worth elsewhere."
        ]
    if not report.num_used[1]:
        return ["No held-out row has a value for every system, so they say nothing."]
    said = []
    for name in (report.best_source, UNTUNED):
        rival = report.entry(name)
        if name == report.chosen or rival.held_out is None:
            continue
        p_value = _paired(chosen.held_out, rival.held_out, report.seed)
        gain = chosen.held_out.mean - rival.held_out.mean
        better = gain > 0 if report.higher_is_better else gain < 0
        word = "as good as" if gain == 0 else "better than" if better else "worse than"
        doubt = ", which may be chance" if gain != 0 and p_value >= SIGNIFICANT else ""
        what = "the untuned fusion" if name == UNTUNED else f"{name} alone"
        said.append(
            f"On the held-out rows {chosen.name} is {word} {what}: {chosen.held_out.mean:.3f} "
            f"and {rival.held_out.mean:.3f}, p {p_value_cell(p_value)}{doubt}."
        )
    return said


def _title(report: TuningReport) -> str:
    direction = "" if report.higher_is_better else ", lower is better"
    return (
        f"{report.task}: {report.metric}{direction}; {report.search} search, "
        f"{len(report.trials)} trials, {len(report.tuning_rows)} tuning rows, "
        f"{len(report.held_out_rows)} held out"
    )


def _rows(report: TuningReport) -> list[tuple[str, ...]]:
    marks = {report.chosen: " (chosen)", report.best_source: " (best source)"}
    return [_cells(entry, marks.get(entry.name, "")) for entry in report.entries]


def _cells(entry: Entry, mark: str) -> tuple[str, ...]:
    last = entry.held_out or entry.tuning
    return (
        entry.name + mark,
        *_score(entry.tuning),
        *(("", "") if entry.held_out is None else _score(entry.held_out)),
        p_value_cell(last.p_value),
        f"{entry.tuning.num_forwarded:.0f}",
        "" if entry.config is None else label(entry.config),
    )


def _score(result: SplitResult) -> tuple[str, str]:
    return f"{result.mean:.3f}", interval_cell(result.interval)


def _notes(report: TuningReport) -> list[str]:
    notes = [
        f"p: against {report.best_source}, the best source on the tuning rows. tokens: computed for "
        "one tuning row.",
        f"The tuning column is the best of {len(report.trials) + 1} settings and flatters them; the "
        "held-out column does not.",
        *verdicts(report),
    ]
    for used, rows, what in zip(
        report.num_used,
        (report.tuning_rows, report.held_out_rows),
        ("tuning", "held-out"),
        strict=True,
    ):
        if used < len(rows):
            notes.append(f"{used} of {len(rows)} {what} rows have a value for every system here.")
    return notes + note("No value", report.failures)


def _paired(one: SplitResult, other: SplitResult, seed: int) -> float:
    pairs = [
        (a, b)
        for a, b in zip(one.values, other.values, strict=True)
        if a is not None and b is not None
    ]
    return paired_p_value([a for a, _ in pairs], [b for _, b in pairs], seed=seed)
