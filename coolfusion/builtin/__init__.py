"""The three small sources that come with the package; README.md beside this is their card."""

from __future__ import annotations

from pathlib import Path

NAMES = ("sums", "groups", "money")


def builtin_paths() -> tuple[Path, ...]:
    """Folders of the built-in sources."""
    return tuple(Path(__file__).parent / name for name in NAMES)
