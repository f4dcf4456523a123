"""Recipes as TOML files: the final merge at the top, the merges inside it as named tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coolfusion.errors import UsageError
from coolfusion.merging.merge_recipe import (
    Adapter,
    Merge,
    MergeRecipe,
    Node,
)
from coolfusion.merging.methods import METHODS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_STEP = {"method", "models", "base", "weights", "seed"}
_WHOLE = {"dtype", "ignore", "merge"}


def read_recipe(path: str | Path) -> MergeRecipe:
    """The recipe in a TOML file, or in the provenance file (JSON) of an earlier merge.

    Paths in it are relative to the file's folder. Raises ``UsageError`` with the wrong key for
    unknown keys, merges that contain themselves and merges that are not used.
    """
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8")
        data = json.loads(text)["recipe"] if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'Cannot read the recipe "{path}": {error}.') from error
    try:
        return recipe_from(data, file.parent)
    except UsageError as error:
        raise UsageError(f'In the recipe "{path}": {error}') from error


def recipe_from(data: Mapping[str, Any], folder: Path | None = None) -> MergeRecipe:
    """The recipe in a parsed file; paths are tried relative to ``folder`` first.

    Raises ``UsageError`` as ``read_recipe`` does.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"it is {data!r}; write a table with a method and models.")
    named = data.get("merge", {})
    if not isinstance(named, Mapping) or not all(isinstance(t, Mapping) for t in named.values()):
        raise UsageError("merge holds named tables, written as [merge.NAME].")
    reader = _Reader(named, folder)
    top = {key: value for key, value in data.items() if key not in _WHOLE}
    merge = reader.merge(top, ())
    unused = next((name for name in named if name not in reader.used), None)
    if unused is not None:
        raise UsageError(
            f"[merge.{unused}] is used by nothing. Name it among the models of a merge."
        )
    ignore = data.get("ignore", [])
    if not isinstance(ignore, list) or not all(isinstance(glob, str) for glob in ignore):
        raise UsageError(f"ignore is {ignore!r}; write a list of patterns of tensor names.")
    return MergeRecipe(merge, data.get("dtype"), tuple(ignore))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Nodes from tables; ``used`` collects the names of the merges that some node uses."""

    named: Mapping[str, Mapping[str, Any]]
    folder: Path | None
    used: set[str] = field(default_factory=set)

    def merge(self, table: Mapping[str, Any], inside: tuple[str, ...]) -> Merge:
        """A merge from its table. ``inside`` names the merges that contain it."""
        method = table.get("method")
        if not isinstance(method, str) or method not in METHODS:
            raise UsageError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
        parameters = METHODS[method].parameters
        unknown = next((key for key in table if key not in _STEP | set(parameters)), None)
        if unknown is not None:
            known = ", ".join(sorted(_STEP | set(parameters)))
            raise UsageError(f"{method} has no key {unknown}. It knows: {known}.")
        models, weights = table.get("models"), table.get("weights", [])
        for key, value in (("models", models), ("weights", weights)):
            if not isinstance(value, list):
                raise UsageError(f"{key} of {method} is {value!r}; write a list.")
        seed = table.get("seed", 0)
        if not isinstance(seed, int):
            raise UsageError(f"seed is {seed!r}; write a whole number.")
        return Merge(
            method,
            tuple(self.node(model, inside) for model in models or ()),
            self.node(table["base"], inside) if "base" in table else None,
            tuple(weights),
            {name: table[name] for name in parameters if name in table},
            seed,
        )

    def node(self, value: Any, inside: tuple[str, ...]) -> Node:
        """A model: a name, a path, a table with a path, or a table that is a merge."""
        if isinstance(value, str) and value in self.named:
            if value in inside:
                raise UsageError(
                    f"[merge.{value}] contains itself: {' > '.join((*inside, value))}."
                )
            self.used.add(value)
            return self.merge(self.named[value], (*inside, value))
        if isinstance(value, str) and value:
            return self._located(value)
        if isinstance(value, Mapping) and "method" in value:
            return self.merge(value, inside)
        if isinstance(value, Mapping) and set(value) <= {"path", "on"} and value.get("path"):
            on = self.node(value["on"], inside) if "on" in value else None
            return Adapter(self._located(str(value["path"])), on)
        raise UsageError(
            f"{value!r} is no model. Write a path, the name of a [merge.NAME], or {{path = ..., on = ...}} for an adapter."
        )

    def _located(self, path: str) -> str:
        here = None if self.folder is None else self.folder / path
        return str(here) if here is not None and here.is_dir() else path
