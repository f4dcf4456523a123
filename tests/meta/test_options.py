"""Every option stands in one table, and public signatures are written out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from coolfusion.cli import parser
from coolfusion.config.options import OPTIONS, FusionConfig
from coolfusion.evaluation.harness_options import SAYABLE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "use" / "options.md"
MODULES = sorted((ROOT / "coolfusion").rglob("*.py"))
THEIRS = "kv_cache.py"  # its signatures are those of transformers


def test_every_option_is_said_everywhere_or_says_why_not() -> None:
    """Of the command line, fusion.toml, the harness and the page."""
    (commands,) = (a for a in parser()._actions if isinstance(a.choices, dict))
    flags = commands.choices["generate"]._option_string_actions
    assert [each.name for each in OPTIONS if not set(each.flags) <= flags.keys()] == []
    keys = {each.name for each in fields(FusionConfig)}
    assert {each.name for each in OPTIONS if not each.not_in_file} == keys
    assert {each.name for each in OPTIONS if not each.not_in_harness} == {s.name for s in SAYABLE}
    page = PAGE.read_text(encoding="utf-8")
    assert [each.name for each in OPTIONS if f"| `{each.name}` | `" not in page] == []


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods that a user can call, special methods such as __init__ among them."""
    for node in body:
        name = getattr(node, "name", "_")
        if name.startswith("_") and not name.endswith("__"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_no_public_signature_takes_any_keywords() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        if path.name != THEIRS
        for node in public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
        if (rest := node.args.kwarg) is not None
        if rest.annotation is None or ast.unparse(rest.annotation) == "Any"
    ]
    assert offenders == []
