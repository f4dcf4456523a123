"""Reports as text for a terminal and as Markdown: a title, a table, and notes below it.

Names of models, tasks and systems come from outside, and so do the reasons of failures. They are
shown as the text they are: whatever they hold starts no line, heading, link, tag or code, and
nothing in them is invisible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from coolfusion.documents import visible

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
    lines = [[visible(cell) for cell in line] for line in (header, *rows)]
    return "\n".join(
        [visible(title), "", *_text_table(lines, words), "", *(visible(each) for each in notes)]
    )


def markdown_report(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> str:
    """The same as Markdown, with the notes as a list."""
    listed = [f"- {_cell(each)}" for each in notes]
    return "\n".join([f"# {_cell(title)}", "", *markdown_table(header, rows), "", *listed, ""])


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, is_markdown: bool = False
) -> list[str]:
    """The lines of a Markdown table.

    Cells are text, shown as it is. With ``is_markdown`` they are Markdown, of which only bars and
    line breaks are escaped.
    """
    shown = _one_line if is_markdown else _cell
    lines = ["| " + " | ".join(map(shown, line)) + " |" for line in (header, *rows)]
    return [lines[0], "| " + " | ".join(["---"] * len(header)) + " |", *lines[1:]]


def markdown_text(text: str) -> str:
    """Markdown of one line that a reader shows as ``text``, in a heading, a list or a sentence.

    Bars mean nothing there. In a table they are escaped as well.
    """
    text = visible(text)
    text = re.sub(r"&", "&amp;", text)
    text = re.sub(r"<(?! )", "&lt;", text)  # what a space follows is no tag
    text = text.replace(">", "&gt;")
    text = re.sub(r"\\(?![^\W_])", r"\\\\", text)  # before letters it is a backslash by itself
    text = re.sub(r"[`*\[\]#~$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", lambda run: r"\_" * len(run[0]), text)
    text = re.sub(r"^([-+=])(?=\1| |$)|(?<=^\d)([.)])(?= |$)", r"\\\g<0>", text)
    text = re.sub(r"^(\d{2,9})([.)])(?= |$)", r"\1\\\2", text)
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    return re.sub(r"^\s|\s$", lambda space: f"&#{ord(space[0])};", text)  # else it is cut off


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


def _cell(text: str) -> str:
    return _one_line(markdown_text(text))


def _one_line(markdown: str) -> str:
    """Markdown in one line of a table that no bar of its own cuts."""
    return markdown.replace("|", "\\|").replace("\n", " ")
