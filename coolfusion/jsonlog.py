"""The one append-only log: JSON objects, one a line, on the disk before the work goes on.

``eval``, ``tune``, ``swarm`` and ``generate --output`` all keep finished work in such a file.

    with JsonLog("run.jsonl", take, start=r'\\{"kind": "point", ', settings={"seed": 0}) as log:
        log.append({"kind": "point", "value": 3})

What it promises:

* One process writes at a time. A second one is refused; ``flock`` holds the file while it is
  open. On Windows, and on file systems without locks, two processes are not kept apart.
* A line is whole and synced before ``append`` returns. One that cannot be written is taken back.
* A last line that was cut off is removed on opening, if this tool began it. A file with
  any other line is refused and stays as it is.
* A log with ``settings`` begins with a line that holds them. Other settings are refused, each
  named with both values.
* A file that is deleted, replaced or changed by somebody else meanwhile is an error.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, final

import regex

from coolfusion.checks.arguments import checked
from coolfusion.documents import json_text, parsed_json
from coolfusion.errors import CoolfusionError, UsageError

if sys.platform != "win32":
    import fcntl

HEADER = r'\{"kind": "run", "settings": \{'
EXCERPT = 40  # characters of a foreign line that its error shows


@final
class JsonLog:
    """A locked file of JSON objects; each earlier one is given to ``take`` on opening.

    ``start``: a regular expression of what every line begins with. A last line without its end
    is taken for one of this tool only if it can go on to match. ``take`` raises ``ValueError``,
    ``KeyError`` or ``TypeError`` for an object that is none of its own. ``settings``: JSON-ready
    data for the first line, which is written with the first record; None: there is no such line.

    Raises ``UsageError`` for a file that another process is writing, that holds anything else or
    has other ``settings``; nothing is changed then.
    """

    @checked
    def __init__(
        self,
        path: str | PathLike[str],
        take: Callable[[dict[str, Any]], None],
        *,
        start: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._pending = b""  # what is written before the next record
        self._file = LockedFile(self.path)
        try:
            self._read(take, start, settings)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> JsonLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file and let others write it."""
        self._file.close()

    def begin(self) -> None:
        """Write the settings now, if they are not there; the first record does so by itself."""
        self._write(b"")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, on the disk before this returns.

        Raises ``CoolfusionError`` where that fails; the file then ends with the last whole line.
        """
        self._write(_line(record))

    def check(self) -> None:
        """Raise ``CoolfusionError`` if the file is no longer there, or no longer as it was left."""
        self._file.check()

    def _write(self, line: bytes) -> None:
        self._file.append(self._pending + line)
        self._pending = b""

    def _read(
        self,
        take: Callable[[dict[str, Any]], None],
        start: str,
        settings: Mapping[str, Any] | None,
    ) -> None:
        """Take in what is there, and remove a torn last line."""
        data = self._file.read()
        *lines, last = data.split(b"\n")
        if last and _is_whole(last):  # only its line break is missing
            lines.append(last)
            self._pending, last = b"\n", b""
        if last and not _began(last, start, settings is not None and not lines):
            raise self._foreign(len(lines) + 1, last)
        if settings is not None:
            self._read_settings(lines, parsed_json(json_text(settings)))
        for number, line in enumerate(lines, 1):
            if settings is None or number > 1:
                self._read_line(number, line, take)
        if last:
            self._file.cut(len(data) - len(last))

    def _read_settings(self, lines: list[bytes], settings: dict[str, Any]) -> None:
        if not lines:
            self._pending = _line({"kind": "run", "settings": settings})
            return
        try:
            header = parsed_json(lines[0])
            if header["kind"] != "run":
                raise ValueError(header["kind"])
            earlier = dict(header["settings"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._foreign(1, lines[0]) from None
        check_same_settings(self.path, earlier, settings)

    def _read_line(self, number: int, line: bytes, take: Callable[[dict[str, Any]], None]) -> None:
        try:
            record = parsed_json(line)
            if not isinstance(record, dict):
                raise TypeError("a record is an object")
            take(record)
        except UsageError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._foreign(number, line) from None

    def _foreign(self, number: int, line: bytes) -> UsageError:
        found = line[: 4 * EXCERPT].decode("utf-8", "replace")[:EXCERPT]
        return UsageError(
            f'"{self.path}" line {number} was not written by an earlier run: it begins {found!r}. Choose '
            "another output; nothing was changed."
        )


@final
class LockedFile:
    """A regular file that nobody else writes while it is open, as logs and traces are.

    Raises ``UsageError`` for any other path, and for a file that another process is writing.
    """

    @checked
    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _locked_file(self.path)
        self._size = os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file and let others write it."""
        self._file.close()

    def read(self) -> bytes:
        """All that the file holds."""
        self._file.seek(0)
        return self._file.read()

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes only."""
        self._file.truncate(size)
        self._size = size

    def append(self, data: bytes, *, is_synced: bool = True) -> None:
        """Add ``data``, on the disk before this returns if it is synced.

        Raises ``CoolfusionError`` where that fails; nothing of ``data`` stays then.
        """
        self.check()
        try:
            rest = memoryview(data)
            while rest:  # a write may take a part only, and says how much
                rest = rest[self._file.write(rest) :]
            if is_synced:
                os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise CoolfusionError(
                f'Writing "{self.path}" failed: {error.strerror or error}. What was finished before is '
                "kept; make room and run again."
            ) from error
        self._size += len(data)

    def check(self) -> None:
        """Raise ``CoolfusionError`` if the file is no longer there, or no longer as it was left."""
        if not _stands_at(self._file, self.path):
            raise CoolfusionError(
                f'"{self.path}" was deleted or replaced while it was being written, and finished work '
                "with it. Leave the file alone and run again."
            )
        size = os.fstat(self._file.fileno()).st_size
        if size != self._size:
            raise CoolfusionError(
                f'"{self.path}" was changed by another program: it has {size} bytes and was left with '
                f"{self._size}. Nothing more is written to it. Mend it, or choose another output."
            )


def check_same_settings(
    path: str | PathLike[str], earlier: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raise ``UsageError`` if the settings of an earlier run are not those of this one.

    Each that differs is named with both values.
    """
    differing = [
        f"{key} was {_shown(earlier, key)} and is {_shown(now, key)} now"
        for key in sorted(earlier.keys() | now.keys())
        if earlier.get(key) != now.get(key)
    ]
    if differing:
        raise UsageError(
            f'"{path}" holds a run with other settings: {"; ".join(differing)}. Choose another output, or '
            "the settings it has; nothing was changed."
        )


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return "not set" if settings.get(key) is None else repr(settings[key])


def _line(record: Mapping[str, Any]) -> bytes:
    return json_text(record).encode("utf-8") + b"\n"


def _is_whole(line: bytes) -> bool:
    try:
        parsed_json(line)
    except ValueError:
        return False
    return True


def _began(torn: bytes, start: str, is_first: bool) -> bool:
    """Whether this tool can have begun a line without an end; the first one may be a header."""
    forms = (HEADER, start) if is_first else (start,)
    return any(
        regex.fullmatch(f"{form}.*".encode(), torn, flags=regex.DOTALL, partial=True)
        for form in forms
    )


def _locked_file(path: Path) -> io.FileIO:
    """The file at ``path``, made if there is none, which nobody else is writing."""
    while True:
        file = _opened(path)
        try:
            _lock(file, path)
        except BaseException:
            file.close()
            raise
        # It may have been replaced between opening and locking.
        if _stands_at(file, path):
            return file
        file.close()


def _opened(path: Path) -> io.FileIO:
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(
                f'Cannot write "{path}": finished work is found again only in a regular file. Give another.'
            )
        return path.open("a+b", buffering=0)
    except OSError as error:
        raise UsageError(f'Cannot write "{path}": {error.strerror or error}.') from error


def _lock(file: io.FileIO, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f'Another process is writing "{path}". Wait for it, or choose another output.'
        ) from None
    except OSError:  # a file system without locks
        return


def _stands_at(file: io.FileIO, path: Path) -> bool:
    """Whether ``path`` still leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False
