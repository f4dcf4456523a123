"""House rules that no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "coolfusion"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 320


def ids(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_public_things_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "a module opens with its purpose"
    if path.parent.name == "cli":
        return
    defined = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    methods = [
        inner
        for node in defined
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for inner in node.body
        if isinstance(inner, ast.FunctionDef)
    ]
    overriding = path.name == "kv_cache.py"  # its methods are documented by transformers
    for node in [*defined, *([] if overriding else methods)]:
        if not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_signatures_are_annotated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{node.name} names no result"
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            for argument in given:
                known = argument.annotation or argument.arg in ("self", "cls")
                assert known, f"{node.name}({argument.arg}) has no type"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_prints_and_no_asserts(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise an error instead"
        if isinstance(node, ast.Call) and path.parent.name != "cli":
            assert getattr(node.func, "id", "") != "print", f"line {node.lineno} prints"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
