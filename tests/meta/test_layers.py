"""Imports go downwards: the package's layers, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "coolfusion"

# Top to bottom; a module may import modules of lower rows only. Parts of one package
# (see PACKAGES) may also import each other.
LAYERS = """
__main__
cli
swarm tuning
evaluation
fusion voting
response beam fusion_options
decoder mixture
turns committing stepwise
contest speculation batching fusion_file
rounds fusion_config byte_scoring
drafting scoring state recall
alignment recipe testing backends.huggingface merging
gates weights mixing covers
sources notation measuring guesses asking backends.ngram backends.token_tree tokenization canonical ending trace
picking byte_vocabulary
token_pieces reranking tokenizer backend emission
boundaries types builtin search strategies characters
errors __init__ backends
"""
RANK = {name: -number for number, row in enumerate(LAYERS.split("\n")) for name in row.split()}
PACKAGES = (
    "cli",
    "evaluation",
    "merging",
    "mixture",
    "search",
    "swarm",
    "testing",
    "tuning",
    "backends.huggingface",
)
HEAVY = {"torch", "transformers", "safetensors"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit(dotted: str) -> str:
    """The row entry that a module below ``coolfusion`` belongs to."""
    for package in PACKAGES:
        if dotted == package or dotted.startswith(package + "."):
            return package
    return dotted


def name_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def imports(node: ast.AST) -> Iterator[str]:
    """Every imported module, those for type checkers left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = child.module or ""
            for alias in child.names:
                path = PACKAGE.parent / module.replace(".", "/") / f"{alias.name}.py"
                yield f"{module}.{alias.name}" if path.exists() else module
        else:
            yield from imports(child)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = unit(name_of(path))
    assert own in RANK, f"{own} has no layer: add it to LAYERS"
    for imported in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if not imported.startswith("coolfusion."):
            continue
        other = unit(imported.removeprefix("coolfusion."))
        assert other == own or RANK[other] < RANK[own], f"{own} may not import {other}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_two_packages_know_torch(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")))}
    # The command line silences transformers, and imports it only in the moment it does.
    knows = HEAVY if unit(name_of(path)) == "backends.huggingface" else set()
    # Merging needs tensors of every type, and no model.
    knows |= {"torch", "safetensors"} if unit(name_of(path)) == "merging" else set()
    knows |= {"transformers"} if name_of(path) == "cli.options" else set()
    assert used & HEAVY <= knows


def test_every_layer_exists() -> None:
    assert set(RANK) == {unit(name_of(path)) for path in MODULES}
