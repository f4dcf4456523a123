"""The floor plan: what stands at the root, how large a package may be, and which way imports go."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "coolfusion"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_ENTRIES = 20
MAX_FILES = 16

# One line per package, as in docs/inside/design.md; a package may import those of lower rows only.
FLOORS = [
    {
        "__main__": "python -m coolfusion",
    },
    {
        "cli": "one module per command, and what commands share",
    },
    {
        "swarm": "Model Swarms: a search between checkpoints",
    },
    {
        "tuning": "the best setting of a fusion for a task",
        "merging": "one checkpoint of several",
    },
    {
        "evaluation": "tasks, metrics, systems, their record and its report",
    },
    {
        "fusion": "FusionModel, the front door",
    },
    {
        "config": "every option of a fusion once, and the file that holds them",
        "testing": "public checks of backends, tokenizers, boundaries and rerankers",
    },
    {
        "decoding": "the decoders, their scheduler, batching, answer cache and stop strings",
    },
    {
        "backends": "models: the seam, sampling, sources, transformers and n-grams",
        "trace": "responses as JSON lines",
    },
    {
        "tokenization": "text and ids: tokenizers, boundaries, alignment, byte covers",
        "search": "searches that propose points and are told their utility",
        "jsonlog": "the one append-only log of finished work",
        "builtin": "the three small models that the project ships",
    },
    {
        "checks": "arguments and rows from outside, checked before they are used",
    },
    {
        "documents": "files and data from outside, within bounds, and strict JSON",
    },
    {
        "types": "the records of a response",
        "errors": "the exception tree",
        "__init__": "the public names, imported when they are first used",
    },
]
# The same inside decoding, where other modules stand below all of these.
DECODING = [{"decoding.answers"}, {"decoding.segments", "decoding.mixture"}]
RANK = {name: -number for number, row in enumerate(FLOORS) for name in row}
SAME_NAMES = set("__init__ base decoder state commit run report plan options".split())
HEAVY = {"torch", "transformers", "safetensors"}
# Merging reads what model classes declare, and runs none; the command line silences transformers.
MAY_IMPORT = {
    "backends.huggingface": HEAVY,
    "merging": HEAVY,
    "cli.options": {"transformers"},
}


def name_of(path: Path) -> str:
    """The dotted name of a module below ``coolfusion``."""
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


def imports_of(path: Path) -> list[str]:
    """The modules that one imports."""
    return list(imports(ast.parse(path.read_text(encoding="utf-8"))))


def test_the_root_has_few_entries_and_all_are_known() -> None:
    entries = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.name != "__pycache__" and path.suffix != ".typed"
    }
    assert entries - {"__init__", "__main__"} == set(RANK) - {"__init__", "__main__"}
    assert len(entries - {"__init__", "__main__"}) <= MAX_ENTRIES


def test_packages_are_small() -> None:
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    crowded = {str(folder.relative_to(PACKAGE)): n for folder, n in counts.items() if n > MAX_FILES}
    assert crowded == {}


def test_imports_go_down() -> None:
    climbing = []
    for path in MODULES:
        own = name_of(path)
        for imported in imports_of(path):
            if not imported.startswith("coolfusion."):
                continue
            other = imported.removeprefix("coolfusion.")
            here, there = own.split(".")[0], other.split(".")[0]
            if (here != there and RANK[there] >= RANK[here]) or not _goes_down(own, other):
                climbing.append(f"{own} imports {other}")
    assert climbing == []


def _goes_down(own: str, other: str) -> bool:
    """Whether an import stays below in decoding; others are no matter of this."""
    if not (own.startswith("decoding.") and other.startswith("decoding.")):
        return True
    return _part(own) == _part(other) or _rank(other) < _rank(own)


def _part(name: str) -> str:
    return next((part for row in DECODING for part in row if name.startswith(part)), "")


def _rank(name: str) -> int:
    ranks = [-number for number, row in enumerate(DECODING) if _part(name) in row]
    return ranks[0] if ranks else -len(DECODING)


def test_the_ground_of_the_side_packages_is_bare() -> None:
    """search, trace and jsonlog need nothing but checks, documents, types and errors, and trace the log."""
    for path in MODULES:
        own = name_of(path).split(".")[0]
        if own in ("search", "trace", "jsonlog"):
            used = {
                name.split(".")[1] for name in imports_of(path) if name.startswith("coolfusion.")
            }
            assert used <= {own, "checks", "documents", "jsonlog", "types", "errors"}, path


def test_no_two_modules_share_a_name() -> None:
    """But for a few names that every package uses alike, and commands, named as they are typed."""
    counts = Counter(path.stem for path in MODULES if path.parent.name != "cli")
    shared = {name for name, count in counts.items() if count > 1}
    assert shared - SAME_NAMES == set()


def test_only_a_few_packages_know_torch() -> None:
    offenders = []
    for path in MODULES:
        own = name_of(path)
        known: set[str] = set().union(
            *(heavy for name, heavy in MAY_IMPORT.items() if f"{own}.".startswith(f"{name}."))
        )
        used = {name.split(".")[0] for name in imports_of(path)} & HEAVY
        offenders += [f"{own} imports {name}" for name in used - known]
    assert offenders == []
