"""The pages on the inside say what the code says: modules of names, and one line per package."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

from coolfusion import _HOME, SegmentDecoder
from tests.meta.test_layers import FLOORS

PAGES = Path(__file__).parents[2] / "docs" / "inside"
NAMES = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| `([\w.]+)` \|", re.MULTILINE)
EXTRAS = {"evaluation.harness"}  # modules that need more than the package itself


def rows() -> list[tuple[list[str], str]]:
    """The names of every row of the page, and the module that it gives for them."""
    found = NAMES.findall((PAGES / "api.md").read_text(encoding="utf-8"))
    return [(re.findall(r"\w+", names), module) for names, module in found]


def test_every_name_is_in_the_module_that_is_given() -> None:
    wrong = [
        f"{module}.{name}"
        for names, module in rows()
        if module not in EXTRAS
        for name in names
        if not hasattr(import_module(f"coolfusion.{module}"), name)
    ]
    assert wrong == []


def test_public_names_are_given_their_own_module() -> None:
    given = {(name, module) for names, module in rows() for name in names}
    assert set(_HOME.items()) - given == set()


def test_the_design_page_has_one_line_per_package() -> None:
    page = (PAGES / "design.md").read_text(encoding="utf-8").splitlines()
    wanted = [
        f"| {len(FLOORS) - number} | `{package}` | {words} |"
        for number, floor in enumerate(FLOORS)
        for package, words in floor.items()
    ]
    assert [line for line in page if re.match(r"\| \d+ \|", line)] == wanted


def test_the_design_page_quotes_a_step_as_it_is() -> None:
    page = (PAGES / "design.md").read_text(encoding="utf-8")
    (quoted,) = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    lines = inspect.getsource(SegmentDecoder.step_async).splitlines()
    assert quoted.splitlines() == [line.strip() for line in lines[-5:]]
