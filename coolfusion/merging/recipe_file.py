"""Recipes as TOML files: the final merge at the top, the merges inside it as named tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coolfusion.checks.arguments import checked
from coolfusion.documents import (
    MAX_BYTES,
    MAX_TEXT_BYTES,
    SHOWN,
    parsed_json,
    parsed_toml,
    read_file,
    shown,
)
from coolfusion.errors import UsageError
from coolfusion.merging.merge_recipe import (
    MAX_NESTED,
    Adapter,
    Merge,
    MergeRecipe,
    Node,
    too_nested,
)
from coolfusion.merging.methods import METHODS

_STEP = {"method", "models", "base", "weights", "seed"}
_WHOLE = {"dtype", "ignore", "merge"}


@checked
def read_recipe(path: str | Path) -> MergeRecipe:
    """The recipe in a TOML file, or in the provenance file (JSON) of an earlier merge.

    Paths in it are relative to the file's folder. Raises ``UsageError`` with the wrong key for
    unknown keys, merges that contain themselves and merges that are not used. The bounds of a
    file are those of ``coolfusion.documents``.
    """
    file = Path(path)
    is_json = file.suffix == ".json"
    try:
        data = read_file(file, max_bytes=MAX_BYTES if is_json else MAX_TEXT_BYTES, streams=True)
        text = data.decode("utf-8")
        found = parsed_json(text) if is_json else parsed_toml(text)
    except OSError as error:
        raise UsageError(
            f'Cannot read the recipe "{path}": {error.strerror}. Give a TOML file, or the merge.json of a merge.'
        ) from error
    except ValueError as error:
        raise UsageError(f'Cannot read the recipe "{path}": {error}.') from error
    if is_json and (not isinstance(found, dict) or "recipe" not in found):
        raise UsageError(
            f'Cannot read the recipe "{path}": it has no "recipe". Give the merge.json of an earlier merge.'
        )
    try:
        return recipe_from(found["recipe"] if is_json else found, file.parent)
    except UsageError as error:
        raise UsageError(f'In the recipe "{path}": {error}') from error


def recipe_from(data: Mapping[str, Any], folder: Path | None = None) -> MergeRecipe:
    """The recipe in a parsed file; paths are tried relative to ``folder`` first.

    Raises ``UsageError`` as ``read_recipe`` does.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"it is {shown(data)}; write a table with a method and models.")
    named = data.get("merge", {})
    if not isinstance(named, Mapping) or not all(isinstance(t, Mapping) for t in named.values()):
        raise UsageError("merge holds named tables, written as [merge.NAME].")
    _check_cycles(named)
    reader = _Reader(named, folder)
    top = {key: value for key, value in data.items() if key not in _WHOLE}
    merge = reader.merge(top, 1)
    unused = next((name for name in named if name not in reader.done), None)
    if unused is not None:
        raise UsageError(
            f"[merge.{unused}] is used by nothing. Name it among the models of a merge."
        )
    ignore = data.get("ignore", [])
    if not isinstance(ignore, list) or not all(isinstance(glob, str) for glob in ignore):
        raise UsageError(f"ignore is {shown(ignore)}; write a list of patterns of tensor names.")
    return MergeRecipe(merge, data.get("dtype"), tuple(ignore))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Nodes from tables; ``done`` holds the named merges that some node uses, each read once."""

    named: Mapping[str, Mapping[str, Any]]
    folder: Path | None
    done: dict[str, Merge] = field(default_factory=dict)

    def merge(self, table: Mapping[str, Any], depth: int) -> Merge:
        """A merge from its table. ``depth``: merges and adapters around it, itself included."""
        if depth > MAX_NESTED:
            raise too_nested()
        method = table.get("method")
        if not isinstance(method, str) or method not in METHODS:
            raise UsageError(f"method is {shown(method)}; choose one of {', '.join(METHODS)}.")
        parameters = METHODS[method].parameters
        unknown = next((key for key in table if key not in _STEP | set(parameters)), None)
        if unknown is not None:
            known = ", ".join(sorted(_STEP | set(parameters)))
            raise UsageError(f"{method} has no key {unknown[:SHOWN]}. It knows: {known}.")
        models, weights = table.get("models"), table.get("weights", [])
        for key, value in (("models", models), ("weights", weights)):
            if not isinstance(value, list):
                raise UsageError(f"{key} of {method} is {shown(value)}; write a list.")
        seed = table.get("seed", 0)
        if not isinstance(seed, int):
            raise UsageError(f"seed is {shown(seed)}; write a whole number.")
        return Merge(
            method,
            tuple(self.node(model, depth + 1) for model in models or ()),
            self.node(table["base"], depth + 1) if "base" in table else None,
            tuple(weights),
            {name: table[name] for name in parameters if name in table},
            seed,
        )

    def node(self, value: Any, depth: int) -> Node:
        """A model: a name, a path, a table with a path, or a table that is a merge."""
        if isinstance(value, str) and value in self.named:
            if value not in self.done:
                self.done[value] = self.merge(self.named[value], depth)
            return self.done[value]
        if isinstance(value, str) and value:
            return self._located(value)
        if isinstance(value, Mapping) and "method" in value:
            return self.merge(value, depth)
        path = value.get("path") if isinstance(value, Mapping) else None
        if isinstance(path, str) and path and set(value) <= {"path", "on"}:
            if depth > MAX_NESTED:
                raise too_nested()
            on = self.node(value["on"], depth + 1) if "on" in value else None
            return Adapter(self._located(path), on)
        raise UsageError(
            f"{shown(value)} is no model. Write a path, the name of a [merge.NAME], or {{path = ..., on = ...}} for an adapter."
        )

    def _located(self, path: str) -> str:
        here = None if self.folder is None else self.folder / path
        return str(here) if here is not None and os.path.isdir(here) else path


def _check_cycles(named: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``UsageError`` with the names of merges that contain each other in a circle."""
    uses = {
        name: [each for each in _names_in(table) if each in named] for name, table in named.items()
    }
    done: set[str] = set()
    for start in named:
        path = {} if start in done else {start: iter(uses[start])}
        while path:
            last = next(reversed(path))
            name = next(path[last], None)
            if name is None:
                del path[last]
                done.add(last)
            elif name in path:
                circle = [*path][[*path].index(name) :]
                few = circle if len(circle) <= 8 else [*circle[:6], "...", circle[-1]]
                raise UsageError(f"[merge.{name}] contains itself: {' > '.join([*few, name])}.")
            elif name not in done:
                path[name] = iter(uses[name])


def _names_in(table: Mapping[str, Any]) -> Iterator[str]:
    """Every text that stands for a model in a table, in order."""
    waiting: list[Any] = [table]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += [value[key] for key in ("on", "base") if key in value]
            models = value.get("models")
            waiting += reversed(models) if isinstance(models, list) else []
