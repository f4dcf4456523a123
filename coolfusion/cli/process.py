"""The process around a command: streams that are closed, full or a terminal, and signals.

A terminal carries out escape sequences, so a model's text could move the cursor, change the title or
hide a line. Whatever goes to a terminal is therefore shown with such characters as ``\\u001b``. To a
pipe or a file the text goes as it is.

Ctrl-C, SIGTERM and SIGHUP end a command without a traceback, with the exit code that shells use.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any, final

from coolfusion.documents import json_text
from coolfusion.errors import CoolfusionError, UsageError

# Control characters but for tabs and line feeds, and those that change the direction of text.
_ACTIVE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u206f\\ufff9-\\ufffb]"
)
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def harmless(text: str) -> str:
    """The text with every character that a terminal would carry out written as ``\\uXXXX``."""
    return _ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@final
class Terminal:
    """A stream to a terminal that lets only harmless text through.

    ``raw_terminal`` is the stream itself, for colours and bars that are the program's own.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.raw_terminal = stream

    def write(self, text: str) -> int:
        """Write the text, harmless. Characters are looked at one by one, so it may come in pieces."""
        self.raw_terminal.write(harmless(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the lines, harmless."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw_terminal, name)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw_terminal.close()


def guarded(stream: IO[str]) -> IO[str]:
    """The stream; if it is a terminal, one through which only harmless text gets."""
    guard: Any = Terminal(stream)
    return guard if stream.isatty() and raw(stream) is stream else stream


def raw(stream: IO[str]) -> IO[str]:
    """The stream behind a guard, for what is the program's own."""
    found: IO[str] = getattr(stream, "raw_terminal", stream)
    return found


@contextmanager
def ready_streams() -> Iterator[None]:
    """Streams that can be written: closed ones lead nowhere, terminals are guarded.

    A closed descriptor is opened on the null device first. Else the next file would get its number,
    and whatever a library prints would end in it.
    """
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    kept = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        try:
            sys.stdout, sys.stderr = (
                nowhere if stream is None else guarded(stream) for stream in kept
            )
            for stream in (sys.stdout, sys.stderr):
                reconfigure = getattr(stream, "reconfigure", None)
                if reconfigure is not None:
                    reconfigure(errors="backslashreplace")  # a narrow encoding loses no response
            yield
        finally:
            sys.stdout, sys.stderr = kept


def check_open(*, is_wanted: bool) -> None:
    """Raise ``UsageError`` if standard output was closed and something is to be printed there."""
    if is_wanted and getattr(sys.stdout, "name", None) == os.devnull:
        raise UsageError(
            "Standard output is closed, so that the response would be lost. Redirect it: to a file, or "
            "to /dev/null if nobody wants it."
        )


def abandon(stream: IO[str]) -> None:
    """Let a stream that cannot be written lead nowhere, so that closing it at exit does not fail."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    with suppress(OSError, ValueError):
        stream.flush()


def put(text: str, stream: IO[str] | None = None) -> None:
    """Write to standard output, at once. Raises ``CoolfusionError`` where that fails.

    A reader that has gone is a ``BrokenPipeError``, as it is no mistake.
    """
    stream = stream or sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon(stream)
        raise CoolfusionError(
            f"Writing standard output failed: {error.strerror or error}. Redirect it elsewhere and run "
            "again."
        ) from error


def as_json(record: Mapping[str, Any], stream: IO[str] | None = None) -> str:
    """A line of JSON; characters that the stream's encoding cannot hold are escaped as JSON has it."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    is_narrow = not encoding.lower().replace("_", "-").startswith("utf")
    return json_text(record, ascii_only=is_narrow) + "\n"


class Interrupted(KeyboardInterrupt):
    """A signal that asks the program to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(error: BaseException) -> int:
    """The exit code of a command that was interrupted: 128 and the signal's number."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal raises ``Interrupted``, and a second one ends the process where it stands.

    What was finished is on the disk by then. A signal that the caller ignores stays ignored, as
    under nohup. Elsewhere than in the main thread nothing is changed, since signals go there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in wanted.items() if handler is not signal.SIG_IGN]
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        if heard:
            os._exit(128 + number)
        heard.append(number)
        raise Interrupted(number)

    try:
        for number in ours:
            signal.signal(number, hear)
        yield
    finally:
        for number in ours:
            signal.signal(number, wanted[number] or signal.SIG_DFL)
