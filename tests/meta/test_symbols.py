"""The page on the algorithm names code that exists, so that a formula can be looked up."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "method" / "algorithm.md").read_text(encoding="utf-8")
DOTTED = re.compile(r"`(coolfusion(?:\.\w+)+)`")
MODULE = re.compile(r"`(coolfusion/[\w/]+\.py)`")


def test_names_in_the_symbol_table_import() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| $")]
    names = [name for row in rows for name in DOTTED.findall(row)]
    assert len(names) == len(rows) >= 8
    assert [name for name in names if not _exists(name)] == []


def test_a_name_that_is_gone_is_found() -> None:
    assert not _exists("coolfusion.decoding.segments.decoder.SegmentDecoder.turns")
    assert not _exists("coolfusion.stepwise.Stepwise")


def test_modules_that_are_named_exist() -> None:
    assert [name for name in MODULE.findall(PAGE) if not (ROOT / name).is_file()] == []


def _exists(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
