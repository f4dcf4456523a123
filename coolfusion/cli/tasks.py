"""What commands that run a task share: prompts, functions of the caller, output folder and report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coolfusion.cli.files import STANDARD, check_distinct, check_writable, status_of, write_whole
from coolfusion.cli.process import as_json as json_line
from coolfusion.cli.process import put
from coolfusion.cli.prompts import prompt_of, prompt_of_row
from coolfusion.documents import json_text
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.evaluation.systems import PromptOf
    from coolfusion.fusion import FusionModel


def output_folder(path: str, files: Sequence[str], task: str) -> Path:
    """The output folder, made if its parent exists, in which all ``files`` can be written.

    Raises ``UsageError`` where that is not so, and where one of them is the ``task`` itself.
    """
    if path == STANDARD:
        raise UsageError(f'--output is "-", but {", ".join(files)} need a folder. Give one.')
    folder = Path(path)
    if status_of(path) is None:
        check_writable(path)
        folder.mkdir()
    if not folder.is_dir():
        raise UsageError(f'--output "{folder}" is a file. Give a folder; {", ".join(files)} go in.')
    for name in files:
        check_writable(str(folder / name))
        check_distinct(str(folder / name), task, "--task")
    return folder


def show_report(
    data: Mapping[str, Any], text: str, markdown: str, *, as_json: bool, folder: Path | None
) -> None:
    """Print a report, as text or as one line of JSON, and write it to ``folder`` in two forms."""
    if folder is not None:
        whole = json_text(data, indent=None if as_json else 1)
        write_whole(folder / "report.json", whole + "\n")
        write_whole(folder / "report.md", markdown)
    put(json_line(data) if as_json else f"{text}\n")


def find_functions_here() -> None:
    """Functions that an option names are found where the command is run, as with python -m."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def row_prompts(arguments: argparse.Namespace, fusion: FusionModel) -> PromptOf:
    """Rows as prompts: messages as they are, texts as ``generate`` would take them."""
    if not any(getattr(s.tokenizer, "has_chat_template", True) for s in fusion.sources):
        prompt_of(
            arguments, fusion.sources, ""
        )  # says once, or refuses, what would be said of each row
        arguments.raw = True

    return lambda row: prompt_of_row(arguments, fusion.sources, row.prompt)
