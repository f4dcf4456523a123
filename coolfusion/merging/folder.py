"""A folder that appears whole or not at all, also where the process that writes it is killed.

What is written, and what stands aside while it is replaced, is in a hidden folder beside the
output. A merge locks that folder (flock), and the system releases the lock however the process
ends. A hidden folder without a lock is left over. Where folders cannot be locked (on Windows, on
some network disks) none is ever taken for that.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from coolfusion.errors import CoolfusionError, UsageError

if sys.platform != "win32":
    import fcntl

PROVENANCE = "merge.json"


@contextmanager
def new_folder(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into that is renamed to ``output`` when all has gone well.

    Whatever fails or interrupts, the folder is removed and ``output`` is as it was. Raises
    ``UsageError`` where ``output`` cannot be written, and ``CoolfusionError`` where writing
    fails on the way.
    """
    check_output(output, overwrite=overwrite)
    with ExitStack() as locks:
        try:
            hidden = _hidden_folder(output, locks)
        except OSError as error:
            raise UsageError(f'Cannot write "{output}": {error.strerror}.') from error
        new, old = hidden / "new", hidden / "old"
        try:
            new.mkdir()
            yield new
            _sync(new)
            check_output(output, overwrite=overwrite)  # it may have appeared meanwhile
            if overwrite and output.exists():
                output.rename(old)
            new.rename(output)  # the system refuses where a folder with anything in it is
        except OSError as error:
            raise CoolfusionError(
                f'Writing "{output}" failed: {error.strerror or error}. Nothing was left behind; make room and '
                "merge again."
            ) from error
        finally:
            with suppress(OSError):
                _clear(hidden, output)


def remove_leftovers(output: Path) -> None:
    """Remove what killed merges to ``output`` left, and bring back what stood aside for one.

    Folders of merges that are still at work stay, and so does whatever cannot be removed.
    """
    pattern = re.compile(rf"\.{re.escape(output.name)}\.[a-z0-9_]{{8}}\.partial")
    with suppress(OSError):
        for folder in sorted(output.parent.iterdir()):
            if pattern.fullmatch(folder.name):
                with suppress(OSError), _locked(folder):
                    _clear(folder, output)


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Raise ``UsageError`` if a checkpoint may not or cannot be put at ``output``."""
    check_place(output, output.parent)
    if output.is_symlink():
        raise UsageError(f'Cannot write "{output}": it is a link. Give a new folder.')
    if not overwrite and output.exists() and any(output.iterdir()):
        raise UsageError(
            f'"{output}" exists and is not empty. Choose another folder, or ask for it to be overwritten.'
        )
    check_own(output, PROVENANCE, "merge")


def check_place(output: Path, written: Path) -> None:
    """Raise ``UsageError`` if there can be no folder ``output``, or ``written`` is closed to writing."""
    try:
        os.lstat(output)
    except (FileNotFoundError, NotADirectoryError):
        pass  # said below, where there is no folder for it
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f'Cannot write "{output}": {reason}. Give another path.') from error
    if not output.parent.is_dir():
        raise UsageError(
            f'Cannot write "{output}": there is no folder "{output.parent}". Make it first.'
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f'Cannot write "{output}": it is a file. Give a new folder.')
    if not os.access(written, os.W_OK):
        raise UsageError(f'Cannot write "{output}": permission is denied in "{written}".')


def check_own(output: Path, mark: str, command: str) -> None:
    """Raise ``UsageError`` if ``output`` has something in it and no file ``mark`` of that command."""
    if output.exists() and any(output.iterdir()) and not (output / mark).exists():
        raise UsageError(
            f'"{output}" is not empty and was not written by an earlier {command} (there is no {mark} in it). '
            "Remove it yourself, or choose another folder."
        )


def check_room(output: Path, num_bytes: int) -> None:
    """Raise ``UsageError`` if a disk has no room for ``num_bytes`` at ``output``."""
    free = shutil.disk_usage(output.parent).free
    if free < num_bytes:
        raise UsageError(
            f'"{output.parent}" has {free / 1e9:.2f} GB free and the merge takes {num_bytes / 1e9:.2f} GB. '
            "Make room, or choose another disk."
        )


def _hidden_folder(output: Path, locks: ExitStack) -> Path:
    """A new folder ".NAME.MARK.partial" beside ``output``, locked where there are locks."""
    while True:
        hidden = Path(mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
        try:
            locks.enter_context(_locked(hidden))
        except (BlockingIOError, FileNotFoundError):
            continue  # another merge took it for left over before it was locked
        except OSError:
            return hidden
        if hidden.exists():
            return hidden


def _clear(hidden: Path, output: Path) -> None:
    """Bring back what stood aside if nothing took its place, then remove the rest."""
    old = hidden / "old"
    if old.exists() and not output.exists():
        old.rename(output)
    shutil.rmtree(hidden)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises ``BlockingIOError`` if someone else holds it, and ``OSError`` where there are no locks.
    """
    if sys.platform == "win32":
        raise OSError("Folders cannot be locked on this system.")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Have names reach the disk before the folder gets its own; not all systems can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
