"""Every Python snippet in the documentation runs; those of one page share their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import coolfusion

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path) -> None:
    snippets = SNIPPET.findall(page.read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{page.name}[{number}]", "exec"), names)
    assert names or not snippets


def test_there_are_snippets() -> None:
    assert sum(len(SNIPPET.findall(page.read_text(encoding="utf-8"))) for page in PAGES) >= 8


def test_every_public_name_is_listed() -> None:
    listed = (ROOT / "docs" / "inside" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in coolfusion.__all__ if f"`{name}`" not in listed]
    assert missing == ["__version__"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
