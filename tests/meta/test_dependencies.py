"""Nothing is imported that pyproject.toml does not declare."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What a folder may import beside the standard library, this project and its dependencies.
EXTRAS = {"coolfusion": ("harness",), "tests": ("harness", "test"), "benchmarks": ("harness",)}
OWN = set(EXTRAS)


def names_of(requirements: list[str]) -> set[str]:
    """Modules of requirements; here they have the names of their distributions."""
    found = (re.match(r"[\w.-]+", each) for each in requirements)
    return {match[0].lower().replace("-", "_") for match in found if match}


def imported(path: Path) -> Iterator[str]:
    """The first part of every module that a file imports, those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("folder", EXTRAS)
def test_what_is_imported_is_declared(folder: str) -> None:
    allowed = names_of(PROJECT["dependencies"]) | OWN | set(sys.stdlib_module_names)
    for extra in EXTRAS[folder]:
        allowed |= names_of(PROJECT["optional-dependencies"][extra])
    offenders = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(path)
        if name not in allowed
    }
    assert offenders == set()


def test_what_is_declared_is_pinned() -> None:
    """So that the tests run with the same versions everywhere."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = names_of([line for line in lines if not line.startswith("#")])
    extras = PROJECT["optional-dependencies"]
    wanted = names_of([*PROJECT["dependencies"], *extras["test"], *extras["lint"]])
    assert wanted - pinned - {"tomli"} == set()
