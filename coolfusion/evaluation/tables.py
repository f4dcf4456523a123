"""Reports as text for a terminal and as Markdown: a title, a table, and notes below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_SHOWN = 10  # entries of a note that are spelled out; all of them are in the JSON


def text_report(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    notes: Iterable[str],
    *,
    words: Sequence[int] = (0,),
) -> str:
    """A report for a terminal; the columns ``words`` are aligned to the left, numbers to the right."""
    return "\n".join([title, "", *_text_table([header, *rows], words), "", *notes])


def markdown_report(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> str:
    """The same as Markdown, with the notes as a list."""
    listed = [f"- {_escaped(each)}" for each in notes]
    table = markdown_table(header, rows)
    return "\n".join([f"# {_escaped(title)}", "", *table, "", *listed, ""])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, a cell's own bars and line breaks escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(_escaped, line)) + " |" for line in lines]


def note(what: str, entries: Sequence[str], separator: str = "; ") -> list[str]:
    """A sentence that lists the first ``MAX_SHOWN`` entries; no sentence where there are none."""
    if not entries:
        return []
    more = f"{separator}and {len(entries) - MAX_SHOWN} more" if len(entries) > MAX_SHOWN else ""
    shown = [entry.removesuffix(".") for entry in entries[:MAX_SHOWN]]
    return [f"{what}: {separator.join(shown)}{more}."]


def interval_cell(interval: tuple[float, float]) -> str:
    """An interval as a table shows it."""
    low, high = interval
    return f"{low:.3f} to {high:.3f}"


def p_value_cell(p_value: float | None) -> str:
    """A p-value as a table shows it; nothing where there is none."""
    if p_value is None:
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _text_table(lines: Sequence[Sequence[str]], words: Sequence[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(number: int, cell: str) -> str:
        return cell.ljust(widths[number]) if number in words else cell.rjust(widths[number])

    return ["  ".join(aligned(n, cell) for n, cell in enumerate(line)).rstrip() for line in lines]


def _escaped(text: str) -> str:
    """``text`` in one line of Markdown that no bar of its own cuts."""
    return text.replace("|", "\\|").replace("\n", " ")
