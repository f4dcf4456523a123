"""The tests themselves: folders are those of the package, and every test can fail."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "coolfusion"
FILES = sorted(TESTS.rglob("test_*.py"))
# The source as a whole, scripts that are no part of the package, and real models throughout.
OTHER_FOLDERS = {"meta", "benchmarks", "real"}
# What makes a test fail besides ``assert``: by name, or by the beginning of it.
FAILING = {"raises", "warns", "run_state_machine_as_test"}
CHECKS = ("assert_", "check_")


def test_folders_are_those_of_the_package() -> None:
    folders = {path.parent.relative_to(TESTS) for path in FILES} - {Path()}
    strange = {
        folder.as_posix()
        for folder in folders
        if folder.parts[0] not in OTHER_FOLDERS and not (PACKAGE / folder / "__init__.py").exists()
    }
    assert strange == set()


def test_every_package_has_its_folder() -> None:
    packages = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")} - {Path()}
    with_code = {
        p for p in packages if any(f.stem != "__init__" for f in (PACKAGE / p).glob("*.py"))
    }
    assert {p.as_posix() for p in with_code if not list((TESTS / p).glob("test_*.py"))} == set()


def test_every_test_can_fail() -> None:
    harmless = [
        f"{path.relative_to(TESTS)}: {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any(map(_may_fail, ast.walk(node)))
    ]
    assert harmless == []


def test_no_test_waits_or_looks_at_the_clock() -> None:
    """How fast a machine is says nothing about the package."""
    waiting = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if name in ("sleep", "perf_counter", "monotonic"):
                waiting.append(f"{path.relative_to(TESTS)}:{getattr(node, 'lineno', 0)}")
    assert waiting == []


def _may_fail(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return name in FAILING or name.startswith(CHECKS)
