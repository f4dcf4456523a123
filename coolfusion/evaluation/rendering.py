"""A report as text for a terminal, as Markdown, and as JSON-ready data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from coolfusion.evaluation.report import Report, SystemResult

HEADER = ("system", "score", "95 % interval", "p", "fixed", "broken", "tokens", "seconds")
MAX_SHOWN = 10  # row ids or failures that are spelled out; the rest are in the JSON


def as_text(report: Report) -> str:
    """Aligned columns, and what they leave out below them."""
    rows = [HEADER, *(_cells(report, result) for result in report.results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([_title(report), "", *lines, "", *_notes(report)])


def as_markdown(report: Report) -> str:
    """The same as a Markdown table and a list."""
    rows = [HEADER, ("---",) * len(HEADER), *(_cells(report, each) for each in report.results)]
    table = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
    notes = [f"- {_escaped(note)}" for note in _notes(report)]
    return "\n".join([f"# {_escaped(_title(report))}", "", *table, "", *notes, ""])


def as_dict(report: Report) -> dict[str, Any]:
    """All of a report; numbers that JSON lacks become null."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(report))
    return plain


def _title(report: Report) -> str:
    direction = "" if report.higher_is_better else ", lower is better"
    count = f"{len(report.rows)} rows"
    if report.num_used < len(report.rows):
        count = f"{report.num_used} of {count}"
    return f"{report.task}: {report.metric}{direction}, {count}"


def _cells(report: Report, result: SystemResult) -> tuple[str, ...]:
    best = result.name == report.best_source
    low, high = result.interval
    return (
        result.name + (" (best source)" if best else ""),
        f"{result.mean:.3f}",
        f"{low:.3f} to {high:.3f}",
        "" if result.p_value is None else _p_value(result.p_value),
        "" if best else str(len(result.fixed)),
        "" if best else str(len(result.broken)),
        f"{result.num_forwarded:.0f}",
        f"{result.seconds:.3f}",
    )


def _p_value(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return [row[0].ljust(widths[0]), *cells[1:]]


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
        notes += _listed(f"{fused.name} fixed", [repr(row) for row in fused.fixed], ", ")
        notes += _listed(f"{fused.name} broke", [repr(row) for row in fused.broken], ", ")
    return notes + _listed("No value", report.failures, "; ")


def _listed(what: str, entries: Sequence[str], separator: str) -> list[str]:
    if not entries:
        return []
    more = f"{separator}and {len(entries) - MAX_SHOWN} more" if len(entries) > MAX_SHOWN else ""
    shown = [entry.removesuffix(".") for entry in entries[:MAX_SHOWN]]
    return [f"{what}: {separator.join(shown)}{more}."]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
