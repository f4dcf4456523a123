"""Merge recipes: a tree of merges whose leaves are checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coolfusion.errors import UsageError
from coolfusion.merging.checkpoint import FLOATS
from coolfusion.merging.methods import METHODS, Method, Parameter
from coolfusion.merging.schedules import Schedule, numbers_in
from coolfusion.trace import json_ready


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on a checkpoint: ``on``, or the one in its own configuration."""

    path: str | Path
    on: Node | None = None


@dataclass(frozen=True, slots=True)
class Merge:
    """Models merged by a method of ``METHODS``, or by a method of the caller.

    A model is the path of a checkpoint or an adapter, a hub id, an ``Adapter`` or another merge.
    ``weights`` has one entry for each model (empty: 1 each). Weights and ``parameters`` are
    numbers or schedules. Raises ``UsageError`` for models, weights or parameters that the method
    does not accept.
    """

    method: str | Method
    models: tuple[Node, ...]
    base: Node | None = None
    weights: tuple[Schedule, ...] = ()
    parameters: Mapping[str, Schedule] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        how = self.how
        _check_models(how, self)
        if self.weights and how.weights is None:
            raise UsageError(f"{how.name} takes no weights, but was given {list(self.weights)}.")
        if self.weights and len(self.weights) != len(self.models):
            raise UsageError(
                f"{len(self.models)} models were given {len(self.weights)} weights. Give one each."
            )
        for schedule in self.weights:
            _check(how.name, "a weight", schedule, how.weights)
        for name, schedule in self.parameters.items():
            if name not in how.parameters:
                known = ", ".join(how.parameters) or "none"
                raise UsageError(f"{how.name} has no parameter {name}. It takes: {known}.")
            _check(how.name, name, schedule, how.parameters[name])
        if self.seed < 0:
            raise UsageError(f"The seed is {self.seed}; it must be 0 or above.")

    @property
    def how(self) -> Method:
        """The method. Raises ``UsageError`` for an unknown name."""
        if isinstance(self.method, Method):
            return self.method
        if self.method not in METHODS:
            raise UsageError(
                f'There is no merge method "{self.method}". Choose one of {", ".join(METHODS)}.'
            )
        return METHODS[self.method]


Node = str | Path | Adapter | Merge


@dataclass(frozen=True, slots=True)
class MergeRecipe:
    """A merge and how to store it.

    ``dtype`` is the stored type of floating-point tensors (None: that of the base, or of the
    first model). ``ignore`` has patterns of tensor names that are left out everywhere. Raises
    ``UsageError`` for an unknown dtype.
    """

    merge: Merge
    dtype: str | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in FLOATS:
            raise UsageError(
                f'There is no dtype "{self.dtype}" to store. Choose one of {", ".join(FLOATS)}.'
            )


def recipe_dict(recipe: MergeRecipe) -> dict[str, Any]:
    """A recipe as JSON-ready data; ``recipe_from`` reads it back."""
    options = {"dtype": recipe.dtype, "ignore": list(recipe.ignore)}
    given = {key: value for key, value in options.items() if value}
    return {**_node_dict(recipe.merge), **given}


def _node_dict(node: Node) -> Any:
    if isinstance(node, Adapter):
        on = {} if node.on is None else {"on": _node_dict(node.on)}
        return {"path": str(node.path), **on}
    if not isinstance(node, Merge):
        return str(node)
    weights = node.weights or ((1.0,) * len(node.models) if node.how.weights else ())
    defaults = {name: parameter.default for name, parameter in node.how.parameters.items()}
    return {
        "method": node.how.name,
        **({} if node.base is None else {"base": _node_dict(node.base)}),
        "models": [_node_dict(model) for model in node.models],
        **({"weights": json_ready(weights)} if weights else {}),
        **{name: json_ready(node.parameters.get(name, value)) for name, value in defaults.items()},
        "seed": node.seed,
    }


def _check_models(how: Method, merge: Merge) -> None:
    if not merge.models:
        raise UsageError(f"{how.name} was given no models. Give at least one.")
    if how.num_models is not None and len(merge.models) != how.num_models:
        wanted = "a base and 1 model" if how.needs_base else f"{how.num_models} models"
        raise UsageError(f"{how.name} takes {wanted}, but was given {len(merge.models)} models.")
    if how.needs_base and merge.base is None:
        raise UsageError(
            f"{how.name} needs the base that the models were trained from, and none was given."
        )
    if not how.needs_base and merge.base is not None:
        raise UsageError(
            f"{how.name} takes no base, but was given {merge.base!r}. Make it one of the models, or leave it out."
        )


def _check(method: str, name: str, schedule: Schedule, parameter: Parameter | None) -> None:
    for number in numbers_in(schedule):
        if parameter is not None and not parameter.allows(number):
            raise UsageError(f"For {method}, {name} is {number}; it must be {parameter.wanted}.")
