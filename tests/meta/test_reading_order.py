"""The page that tells a stranger what to read first lists eight files, smallest ideas first."""

from __future__ import annotations

import re
from pathlib import Path

from tests.meta.test_layers import PACKAGE, imports_of, name_of

PAGE = Path(__file__).parents[2] / "docs" / "inside" / "reading-order.md"
ENTRY = re.compile(r"^(\d+)\. \[`([\w/.]+)`\]\(([^)]+)\)", re.MULTILINE)
MENTION = re.compile(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py|(?:[a-z_0-9]+/)+)`")
NUM_FILES = 8


def entries() -> list[tuple[str, str, str]]:
    """Number, name and link of every file that the page lists."""
    return ENTRY.findall(PAGE.read_text(encoding="utf-8"))


def test_eight_modules_each_once() -> None:
    listed = [PACKAGE / name for _, name, _ in entries()]
    assert [number for number, _, _ in entries()] == [str(n + 1) for n in range(NUM_FILES)]
    assert [path for path in listed if not path.is_file()] == []
    assert len(set(listed)) == NUM_FILES


def test_links_lead_to_the_modules_they_name() -> None:
    wrong = [
        name
        for _, name, link in entries()
        if (PAGE.parent / link).resolve() != (PACKAGE / name).resolve()
    ]
    assert wrong == []


def test_no_file_imports_a_later_one() -> None:
    listed = [PACKAGE / name for _, name, _ in entries()]
    order = [f"coolfusion.{name_of(path)}" for path in listed]
    climbing = [
        f"{order[n]} imports {later}"
        for n, path in enumerate(listed)
        for later in set(order[n + 1 :]) & set(imports_of(path))
    ]
    assert climbing == []


def test_every_module_that_is_named_exists() -> None:
    """Where a line names several modules, the later ones stand in the folder of the first."""
    missing = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        folder = PACKAGE
        for name in MENTION.findall(line):
            path = next((p for p in (PACKAGE / name, folder / name) if p.exists()), None)
            if path is None:
                missing.append(name)
            else:
                folder = path.parent
    assert missing == []
