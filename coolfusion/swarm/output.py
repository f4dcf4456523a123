"""The output folder of a search, and the scratch folder of its particles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.merging.folder import check_own, check_place, check_room

LOG = "evaluations.jsonl"
BEST = "best"


def check_target(target: Path) -> None:
    """Raise ``UsageError`` if a search may not or cannot keep its results at ``target``."""
    check_place(target, target if os.path.exists(target) else target.parent)
    check_own(target, LOG, "search")


def scratch_folder(target: Path, scratch: str | Path | None) -> Path:
    """The folder for particles of a search: in ``target``, or a new one in ``scratch``.

    Raises ``UsageError`` if the folder ``scratch`` does not exist.
    """
    if scratch is None:
        return target / "particles"
    if not Path(scratch).is_dir():
        raise UsageError(f'There is no folder "{scratch}" for particles. Make it first.')
    mark = blake2b(str(target).encode(), digest_size=6).hexdigest()
    return Path(os.path.abspath(scratch)) / f"particles-{mark}"


def check_space(target: Path, particles: Path, num_bytes: int, num_particles: int) -> None:
    """Raise ``UsageError`` without disk space for a result and ``num_particles`` at a time."""
    if particles.parent == target:
        check_room(target, num_bytes * (num_particles + 1))
    else:
        check_room(target, num_bytes)
        check_room(particles, num_bytes * num_particles)


@contextmanager
def emptied(particles: Path) -> Iterator[Path]:
    """A new folder, removed at the end. An old one of a killed search is removed first."""
    shutil.rmtree(particles, ignore_errors=True)
    try:
        particles.mkdir()
    except OSError as error:
        raise CoolfusionError(
            f'Particles cannot be written to "{particles}": {error.strerror}. Make room, or name another folder '
            "for scratch."
        ) from error
    try:
        yield particles
    finally:
        shutil.rmtree(particles, ignore_errors=True)
