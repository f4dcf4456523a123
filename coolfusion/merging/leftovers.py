"""What a killed merge leaves beside its output, told apart from what a living one is working on.

A merge locks the folder it writes (flock), and the system lets go of the lock when the process
ends, however it ends. A folder that nobody has locked is left over. Where folders cannot be
locked (on Windows, on some network disks) none is ever taken for that.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """A new hidden folder ".NAME.MARK.partial" beside ``output``, locked; removed in the end.

    Raises ``OSError`` where it cannot be made.
    """
    while True:
        partial = output.parent / f".{output.name}.{secrets.token_hex(4)}.partial"
        partial.mkdir()
        lock = None
        try:
            lock = _locked(partial)
        except (BlockingIOError, FileNotFoundError):
            continue  # another merge took it for left over before it was locked
        except OSError:
            pass  # no locks here
        try:
            if partial.exists():
                yield partial
                return
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            _unlock(lock)


def replace_folder(partial: Path, output: Path) -> None:
    """Put ``partial`` where ``output`` is; what was there stands aside, locked, until it is done.

    Raises ``OSError`` where it fails; ``output`` is as it was then.
    """
    aside = partial.with_suffix(".old")
    lock = None
    with suppress(OSError):
        lock = _locked(output)
    try:
        output.rename(aside)
        try:
            partial.rename(output)
        except BaseException:
            aside.rename(output)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        _unlock(lock)


def remove_leftovers(output: Path) -> None:
    """Remove what killed merges to ``output`` left, and bring back what stood aside for one.

    Folders of merges that are still at work stay, and so does whatever cannot be removed.
    """
    pattern = re.compile(rf"\.{re.escape(output.name)}\.[0-9a-f]{{8}}\.(partial|old)")
    with suppress(OSError):
        for folder in sorted(output.parent.iterdir()):
            if pattern.fullmatch(folder.name):
                with suppress(OSError):
                    _remove(folder, output)


def _remove(folder: Path, output: Path) -> None:
    lock = _locked(folder)
    try:
        if folder.suffix == ".old" and not output.exists():
            folder.rename(output)
        else:
            shutil.rmtree(folder)
    finally:
        _unlock(lock)


def _locked(folder: Path) -> int:
    """A descriptor that holds the lock of a folder.

    Raises ``BlockingIOError`` if someone else holds it, and ``OSError`` where there are no locks.
    """
    if sys.platform == "win32":
        raise OSError("Folders cannot be locked on this system.")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
