"""A tuning report as text for a terminal, as Markdown, and as JSON-ready data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from coolfusion.config.options import FusionConfig
from coolfusion.evaluation.statistics import paired_p_value
from coolfusion.tuning.report import UNTUNED, Entry, SplitResult, TuningReport
from coolfusion.tuning.space import label

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
MAX_SHOWN = 10  # failures that are spelled out; the rest are in the JSON


def as_text(report: TuningReport) -> str:
    """Aligned columns, and what they mean below them."""
    rows = [HEADER, *(_cells(report, entry) for entry in report.entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([_title(report), "", *lines, "", *_notes(report)])


def as_markdown(report: TuningReport) -> str:
    """The same as a Markdown table and a list."""
    rows = [HEADER, ("---",) * len(HEADER), *(_cells(report, each) for each in report.entries)]
    table = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
    notes = [f"- {_escaped(note)}" for note in _notes(report)]
    return "\n".join([f"# {_escaped(_title(report))}", "", *table, "", *notes, ""])


def as_dict(report: TuningReport) -> dict[str, Any]:
    """All of a report, every trial included; numbers that JSON lacks become null."""
    plain: dict[str, Any] = _plain(
        {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
    )
    return plain


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
            f"and {rival.held_out.mean:.3f}, p {_p_value(p_value)}{doubt}."
        )
    return said


def _title(report: TuningReport) -> str:
    direction = "" if report.higher_is_better else ", lower is better"
    return (
        f"{report.task}: {report.metric}{direction}; {report.search} search, "
        f"{len(report.trials)} trials, {len(report.tuning_rows)} tuning rows, "
        f"{len(report.held_out_rows)} held out"
    )


def _cells(report: TuningReport, entry: Entry) -> tuple[str, ...]:
    mark = {report.chosen: " (chosen)", report.best_source: " (best source)"}.get(entry.name, "")
    last = entry.held_out or entry.tuning
    return (
        entry.name + mark,
        *_score(entry.tuning),
        *(("", "") if entry.held_out is None else _score(entry.held_out)),
        "" if last.p_value is None else _p_value(last.p_value),
        f"{entry.tuning.num_forwarded:.0f}",
        "" if entry.config is None else label(entry.config),
    )


def _score(result: SplitResult) -> tuple[str, str]:
    low, high = result.interval
    return f"{result.mean:.3f}", f"{low:.3f} to {high:.3f}"


def _p_value(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return [row[0].ljust(widths[0]), *cells[1:-1], row[-1]]


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
    if report.failures:
        more = len(report.failures) - MAX_SHOWN
        ending = f"; and {more} more" if more > 0 else ""
        shown = [failure.removesuffix(".") for failure in report.failures[:MAX_SHOWN]]
        notes.append(f"No value: {'; '.join(shown)}{ending}.")
    return notes


def _paired(one: SplitResult, other: SplitResult, seed: int) -> float:
    pairs = [
        (a, b)
        for a, b in zip(one.values, other.values, strict=True)
        if a is not None and b is not None
    ]
    return paired_p_value([a for a, _ in pairs], [b for _, b in pairs], seed=seed)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, FusionConfig):
        return value.said()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
