"""Files and streams that a command line names: read whole, or tried before anything is done."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from coolfusion.errors import UsageError


def read_text(argument: str | None) -> str:
    """The argument itself, or standard input for ``-`` and for no argument in a pipe.

    Raises ``UsageError`` for input that is not UTF-8 and where there is nothing to read.
    """
    if argument is not None and argument != "-":
        if any("\ud800" <= char <= "\udfff" for char in argument):
            raise UsageError(
                f"The argument {argument!r} is not UTF-8. Check the terminal's encoding."
            )
        return argument
    if argument is None and sys.stdin.isatty():
        raise UsageError("There is no text. Give it as an argument, or - to read standard input.")
    raw = sys.stdin.buffer.read()
    try:
        # The line break that a shell adds is no part of what was said.
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"Standard input is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}. Convert it first."
        ) from None


def check_writable(path: str) -> None:
    """Raise ``UsageError`` if a file cannot be written at ``path``; nothing is made or changed."""
    target = Path(path)
    if not target.parent.is_dir():
        raise UsageError(
            f'Cannot write "{path}": there is no folder "{target.parent}". Make it first.'
        )
    if target.is_dir():
        raise UsageError(f'Cannot write "{path}": it is a folder. Give the path of a file in it.')
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UsageError(f'Cannot write "{path}": permission is denied.')


def check_distinct(output: str, source: str, option: str) -> None:
    """Raise ``UsageError`` if ``output`` is the file that ``option`` reads, by whatever path."""
    try:
        same = os.path.samefile(output, source)
    except OSError:  # one of them is not there
        same = False
    if same:
        raise UsageError(
            f'--output "{output}" is the file of {option} "{source}", which would be destroyed. Give '
            "another path."
        )
