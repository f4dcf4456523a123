"""House rules that no linter checks; each lists everything that breaks it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

from tests.meta.test_layers import MODULES, PACKAGE

MAX_LINES = 320
# Methods that transformers calls, and documents.
OVERRIDING = {"backends/huggingface/kv_cache.py"}

# A formula is an indented line of a docstring with a sum, a product, a logarithm, an
# exponential, a quotient of brackets or an update.
FORMULA = re.compile(r"^ {4,}\S.*(\b(sum|prod)_|\b(exp|log|ln)\b(?![.:])|\) / \(|<-)", re.MULTILINE)
# An arXiv number, author and year, or "our own".
SOURCE = re.compile(r"arXiv \d{4}\.\d{4,5}|\b[A-Z]\w+,? \(?(19|20)\d\d\)|\bour own\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = TypeVar("Node", bound=ast.AST)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def public(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """The public functions and classes of a module or a class."""
    for node in body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield node


def public_methods(body: list[ast.stmt]) -> Iterator[Function]:
    for each in public(body):
        if isinstance(each, ast.ClassDef):
            yield from (method for method in public(each.body) if isinstance(method, Function))


def nodes(kind: type[Node]) -> Iterator[tuple[Path, Node]]:
    """Every node of a kind in the package, with its module."""
    for path in MODULES:
        yield from ((path, node) for node in ast.walk(tree_of(path)) if isinstance(node, kind))


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, Function)):
            yield ast.get_docstring(node) or ""


def test_modules_open_with_their_purpose() -> None:
    trees = {short(path): tree_of(path) for path in MODULES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_public_things_say_what_they_are() -> None:
    """Those of the command line are named and described where its parser is made."""
    silent = []
    for path in MODULES:
        if path.parent.name == "cli":
            continue
        body = tree_of(path).body
        named = [*public(body), *([] if short(path) in OVERRIDING else public_methods(body))]
        silent += [f"{short(path)}: {n.name}" for n in named if not ast.get_docstring(n)]
    assert silent == []


def test_signatures_are_annotated() -> None:
    untyped = []
    for path, node in [*nodes(ast.FunctionDef), *nodes(ast.AsyncFunctionDef)]:
        taken = node.args
        given = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
        bare = [a.arg for a in given if a and not a.annotation and a.arg not in ("self", "cls")]
        bare += [] if node.returns else ["its result"]
        untyped += [f"{short(path)}: {node.name}, {each}" for each in bare]
    assert untyped == []


def test_no_asserts() -> None:
    """An error says what was wrong, why it matters and what to do."""
    assert [f"{short(path)}:{node.lineno}" for path, node in nodes(ast.Assert)] == []


def test_nothing_but_the_command_line_prints() -> None:
    printing = []
    for path, node in nodes(ast.Call):
        if path.parent.name != "cli" and getattr(node.func, "id", "") == "print":
            printing.append(f"{short(path)}:{node.lineno}")
    assert printing == []


# What they write is read again by a library or by themselves, and leaves the process nowhere.
IN_MEMORY = (
    "merging/architecture.py",
    "tokenization/control_names.py",
    "tokenization/fidelity/",
    "tokenization/settling/",
)


def test_json_is_written_in_one_place() -> None:
    """What ``json_text`` writes every reader can read; other calls would let infinity through."""
    writers = {"dump", "dumps", "JSONEncoder"}
    elsewhere = []
    for path, node in nodes(ast.Attribute):
        if node.attr in writers and getattr(node.value, "id", "") == "json":
            elsewhere.append(f"{short(path)}:{node.lineno}")
    for path, imported in nodes(ast.ImportFrom):
        if imported.module == "json" and writers & {alias.name for alias in imported.names}:
            elsewhere.append(f"{short(path)}:{imported.lineno}")
    assert [each for each in elsewhere if not each.startswith(("documents.py", *IN_MEMORY))] == []
    (call,) = (
        node
        for node in ast.walk(tree_of(PACKAGE / "documents.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "json.dumps"
    )
    assert "allow_nan=False" in ast.unparse(call)


def test_modules_are_short() -> None:
    lengths = {short(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_two_public_classes_share_a_name() -> None:
    where = defaultdict(list)
    for path in MODULES:
        for node in public(tree_of(path).body):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(short(path))
    shared = {name: paths for name, paths in where.items() if len(paths) > 1}
    assert shared == {}


def test_a_formula_names_its_source() -> None:
    """In the docstring of its module: a paper, or that it is our own."""
    nameless = []
    for path in MODULES:
        purpose = ast.get_docstring(tree_of(path)) or ""
        if any(FORMULA.search(text) for text in docstrings(path)) and not SOURCE.search(purpose):
            nameless.append(short(path))
    assert nameless == []


def test_the_rule_of_formulas_finds_them() -> None:
    with_one = {short(path) for path in MODULES if any(map(FORMULA.search, docstrings(path)))}
    assert len(with_one) >= 10
    assert {"merging/formulas.py", "search/particle_swarm.py", "backends/ngram.py"} <= with_one
    for text in ("(arXiv 2407.19807, section 3)", "of Freund and Schapire (1997)", "is our own."):
        assert SOURCE.search(text)
    for text in ("a formula of its own", "since 1997", "its own (2)"):
        assert not SOURCE.search(text)
