"""Files and streams that a command line names: read whole, tried before anything is done, or written."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from pathlib import Path
from typing import IO

from coolfusion.cli.process import guarded
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.trace import TraceFile

STANDARD = "-"  # standard input or output, where a path may stand
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)|/dev/std(out|err)")


def read_text(argument: str | None) -> str:
    """The argument itself, or standard input for ``-`` and for no argument in a pipe.

    Raises ``UsageError`` for input that is not UTF-8 and where there is nothing to read.
    """
    if argument is not None and argument != STANDARD:
        check_encoded(argument)
        return argument
    if sys.stdin is None:
        raise UsageError("Standard input is closed, so there is no text. Give it as an argument.")
    if argument is None and sys.stdin.isatty():
        raise UsageError("There is no text. Give it as an argument, or - to read standard input.")
    try:
        raw = sys.stdin.buffer.read()
    except OSError as error:
        raise UsageError(
            f"Standard input cannot be read: {error.strerror or error}. Give a file or a pipe."
        ) from None
    try:
        # The line break that a shell adds is no part of what was said, nor the mark of an editor.
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"Standard input is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}. Convert it first."
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def check_encoded(argument: str) -> None:
    """Raise ``UsageError`` for an argument with bytes that are not UTF-8."""
    if any("\ud800" <= char <= "\udfff" for char in argument):
        raise UsageError(f"The argument {argument!r} is not UTF-8. Check the terminal's encoding.")


def status_of(path: str, verb: str = "write") -> os.stat_result | None:
    """What is at a path; None: nothing. Raises ``UsageError`` for a path that cannot be followed."""
    if path == "":
        raise UsageError(f"Cannot {verb} a path that is empty. Give one.")
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f'Cannot {verb} "{_brief(path)}": {reason}. Give another path.') from None


def check_writable(path: str, *, stream_ok: bool = False) -> None:
    """Raise ``UsageError`` if a file cannot be written at ``path``; nothing is made or changed.

    ``stream_ok``: a pipe, a terminal or another device will do as well.
    """
    there, target = status_of(path), Path(path)
    folder = status_of(str(target.parent))
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise UsageError(
            f'Cannot write "{_brief(path)}": there is no folder "{_brief(str(target.parent))}". Make it first.'
        )
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise UsageError(f'Cannot write "{path}": it is a folder. Give the path of a file in it.')
    if there is not None and stat.S_ISSOCK(there.st_mode):
        raise UsageError(f'Cannot write "{path}": it is a socket. Give a file or a pipe.')
    if there is not None and not stat.S_ISREG(there.st_mode) and not stream_ok:
        raise UsageError(f'Cannot write "{path}": it is no regular file. Give another path.')
    if not os.access(target if there is not None else target.parent, os.W_OK):
        raise UsageError(
            f'Cannot write "{path}": permission is denied, or the file system is read-only.'
        )


def is_stream(path: str) -> bool:
    """Whether what is at a path is written straight through: a pipe, a terminal, another device."""
    if path == STANDARD:
        return True
    there = status_of(path)
    return there is not None and not stat.S_ISREG(there.st_mode)


def open_stream(path: str) -> IO[str]:
    """A pipe or a device, open for text. Never waits.

    Raises ``UsageError`` for a pipe that nobody reads and for what cannot be opened.
    """
    try:
        named = _DESCRIPTOR.fullmatch(path)
        if named is not None:
            number = named[1] or named[2] or {"out": 1, "err": 2}[named[3]]
            descriptor = os.dup(int(number))
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.set_blocking(descriptor, True)
    except OSError as error:
        there = status_of(path)
        if error.errno == errno.ENXIO and there is not None and stat.S_ISFIFO(there.st_mode):
            raise UsageError(
                f'Nobody reads the pipe "{path}". Start its reader first, so that nothing has to wait.'
            ) from None
        raise UsageError(f'Cannot write "{path}": {error.strerror or error}.') from None
    return guarded(
        os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
    )


def open_trace(path: str) -> TraceFile | IO[str]:
    """A file for a trace, locked and as it was before, or a pipe or device."""
    return open_stream(path) if is_stream(path) else TraceFile(path)


def write_whole(path: Path, text: str) -> None:
    """Replace a file, whole or not at all. Raises ``CoolfusionError`` naming it where that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CoolfusionError(
            f'Writing "{path}" failed: {error.strerror or error}. What was finished before is kept; '
            "make room and run again."
        ) from error


def check_distinct(output: str, source: str, option: str) -> None:
    """Raise ``UsageError`` if ``output`` is the file that ``option`` reads, by whatever path."""
    try:
        same = os.path.samefile(output, source)
    except (OSError, ValueError):  # one of them is not there
        same = False
    if same:
        raise UsageError(
            f'--output "{output}" is the file of {option} "{source}", which would be destroyed. Give '
            "another path."
        )


def _brief(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:200]}..."
