"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.merging.leftovers import partial_folder, replace_folder

PROVENANCE = "merge.json"


@contextmanager
def new_folder(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside ``output`` to write into, renamed to ``output`` when all has gone well.

    Whatever fails or interrupts, the folder is removed and ``output`` is as it was; what a
    process that is killed leaves is removed by the next merge to ``output``. Raises
    ``UsageError`` where ``output`` cannot be written, and ``CoolfusionError`` where writing
    fails on the way.
    """
    check_output(output, overwrite=overwrite)
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(partial_folder(output))
        except OSError as error:
            raise UsageError(f'Cannot write "{output}": {error.strerror}.') from error
        try:
            yield partial
            _sync(partial)
            check_output(output, overwrite=overwrite)  # it may have appeared meanwhile
            if output.exists() and any(output.iterdir()):
                replace_folder(partial, output)
            else:
                partial.rename(output)
        except OSError as error:
            raise CoolfusionError(
                f'Writing "{output}" failed: {error.strerror or error}. Nothing was left behind; make room and '
                "merge again."
            ) from error


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Raise ``UsageError`` if a checkpoint may not or cannot be put at ``output``."""
    if not output.parent.is_dir():
        raise UsageError(
            f'Cannot write "{output}": there is no folder "{output.parent}". Make it first.'
        )
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f'Cannot write "{output}": permission is denied in "{output.parent}".')
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f'Cannot write "{output}": it is a file or a link. Give a new folder.')
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise UsageError(
            f'"{output}" exists and is not empty. Choose another folder, or ask for it to be overwritten.'
        )
    if not (output / PROVENANCE).exists():
        raise UsageError(
            f'"{output}" was not written by an earlier merge (there is no {PROVENANCE} in it), so it is not '
            "overwritten. Remove it yourself, or choose another folder."
        )


def check_room(output: Path, num_bytes: int) -> None:
    """Raise ``UsageError`` if a disk has no room for ``num_bytes`` at ``output``."""
    free = shutil.disk_usage(output.parent).free
    if free < num_bytes:
        raise UsageError(
            f'"{output.parent}" has {free / 1e9:.2f} GB free and the merge takes {num_bytes / 1e9:.2f} GB. '
            "Make room, or choose another disk."
        )


def _sync(folder: Path) -> None:
    """Have names reach the disk before the folder gets its own; not all systems can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
