"""The table of options as docs/use/options.md has it."""

from __future__ import annotations

from collections.abc import Sequence

from coolfusion.config.options import OPTIONS

_HEADS = ("option", "command line", "values", "default", "strategy", "what it does")


def options_table() -> str:
    """Two tables in Markdown: every option, and why some cannot be said everywhere."""
    options = [
        (
            f"`{each.name}`",
            " ".join(f"`{flag}`" for flag in each.flags),
            each.wanted,
            each.default_text,
            each.strategy or "both",
            each.help,
        )
        for each in OPTIONS
    ]
    missing = [
        (f"`{each.name}`", place, reason)
        for place, reasons in (
            ("`fusion.toml`", [each.not_in_file for each in OPTIONS]),
            ("the harness", [each.not_in_harness for each in OPTIONS]),
        )
        for each, reason in zip(OPTIONS, reasons, strict=True)
        if reason
    ]
    return "\n".join(
        [*_table(_HEADS, options), "", *_table(("option", "not in", "because"), missing)]
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(heads), _line(["---"] * len(heads)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
