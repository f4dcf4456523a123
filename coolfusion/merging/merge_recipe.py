"""Merge recipes: merges of merges whose leaves are checkpoints.

A recipe is a graph without cycles. A node that is named or written several times is one node. It
is opened once, and each of its tensors is computed once. Nodes are nested at most
``MAX_NESTED`` deep, which every recursion over them can rely on.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from coolfusion.checks.arguments import checked_fields
from coolfusion.documents import SHOWN, json_ready, json_text, quoted, shown
from coolfusion.errors import UsageError
from coolfusion.merging.checkpoint import FLOATS
from coolfusion.merging.methods import METHODS, Method, check_models, check_numbers
from coolfusion.merging.schedules import Schedule, frozen_schedule

MAX_NESTED = 64
MAX_SEED = 2**64 - 1


class _Alike:
    """Equality, hash and representation of a node, none of which goes into the nodes inside it."""

    __slots__ = ()
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
@checked_fields
class Adapter(_Alike):
    """A LoRA adapter on a checkpoint: ``on``, or the one in its own configuration.

    ``depth`` counts the adapters and merges inside each other, this one included. ``digest`` is
    the same for equal nodes.
    """

    path: str | Path
    on: Node | None = None
    depth: int = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        inside = () if self.on is None else (self.on,)
        for node in inside:
            _check_node("on", node)
        _seal(self, inside, ["adapter", str(self.path), [digest_of(node) for node in inside]])

    def __reduce__(self) -> tuple[Any, ...]:
        return Adapter, (self.path, self.on)

    def __repr__(self) -> str:
        return f"Adapter({str(self.path)!r}{'' if self.on is None else f', on={label(self.on)}'})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
@checked_fields
class Merge(_Alike):
    """Models merged by a method of ``METHODS``, or by a method of the caller.

    A model is the path of a checkpoint or an adapter, a hub id, an ``Adapter`` or another merge.
    ``weights`` has one entry for each model (empty: 1 each). Weights and ``parameters`` are
    numbers or schedules. ``depth`` and ``digest`` are as those of an ``Adapter``. Raises
    ``UsageError`` for models, weights or parameters that the method does not accept, and for more
    than ``MAX_NESTED`` merges and adapters inside each other.
    """

    method: str | Method
    models: tuple[Node, ...]
    base: Node | None = None
    weights: tuple[Schedule, ...] = ()
    parameters: Mapping[str, Schedule] = field(default_factory=dict)
    seed: int = 0
    depth: int = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        how = self.how
        _check_kinds(self)
        check_models(how, len(self.models), None if self.base is None else label(self.base))
        if self.weights and how.weights is None:
            raise UsageError(f"{how.name} takes no weights, but was given {shown(self.weights)}.")
        if self.weights and len(self.weights) != len(self.models):
            raise UsageError(
                f"{len(self.models)} models were given {len(self.weights)} weights. Give one each."
            )
        for schedule in self.weights:
            check_numbers(how, "a weight", schedule, how.weights)
        for name, schedule in self.parameters.items():
            if name not in how.parameters:
                known = ", ".join(how.parameters) or "none"
                raise UsageError(
                    f"{how.name} has no parameter {str(name)[:SHOWN]}. It takes: {known}."
                )
            check_numbers(how, name, schedule, how.parameters[name])
        # What the caller changes later changes no node that is checked and sealed.
        weights = tuple(map(frozen_schedule, self.weights))
        parameters = {name: frozen_schedule(each) for name, each in self.parameters.items()}
        for name, value in (("models", tuple(self.models)), ("weights", weights)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "parameters", parameters)
        inside = (*(() if self.base is None else (self.base,)), *self.models)
        identity = [
            how.identity,
            None if self.base is None else digest_of(self.base),
            [digest_of(model) for model in self.models],
            [_spelt(weight) for weight in weights],
            sorted((name, _spelt(each)) for name, each in parameters.items()),
            self.seed,
        ]
        _seal(self, inside, ["merge", identity])

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self.method, self.models, self.base, self.weights, self.parameters, self.seed)
        return Merge, given

    def __repr__(self) -> str:
        said: dict[str, object] = {"weights": self.weights, "parameters": self.parameters}
        more = [f", {name}={value!r}" for name, value in said.items() if value]
        base = "" if self.base is None else f", base={label(self.base)}"
        seed = f", seed={self.seed}" if self.seed else ""
        models = ", ".join(map(label, self.models))
        return f"Merge({self.how.name!r}, ({models},){base}{''.join(more)}{seed})"

    @property
    def how(self) -> Method:
        """The method. Raises ``UsageError`` for an unknown name."""
        if isinstance(self.method, Method):
            return self.method
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise UsageError(
                f"There is no merge method {quoted(self.method)}. Choose one of {', '.join(METHODS)}."
            )
        return METHODS[self.method]


Node = str | Path | Adapter | Merge


@dataclass(frozen=True, slots=True)
@checked_fields
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
        if not isinstance(self.merge, Merge):
            raise UsageError(f"The recipe is {shown(self.merge)}; give a Merge.")
        known = isinstance(self.dtype, str) and self.dtype in FLOATS
        if self.dtype is not None and not known:
            raise UsageError(
                f"There is no dtype {quoted(self.dtype)} to store. Choose one of {', '.join(FLOATS)}."
            )
        listed = isinstance(self.ignore, (list, tuple))
        if not listed or not all(isinstance(glob, str) for glob in self.ignore):
            raise UsageError(
                f"ignore is {shown(self.ignore)}; give a list of patterns of tensor names."
            )


def nodes_inside(node: Node) -> tuple[Node, ...]:
    """The nodes that a node names, a base first; none for a checkpoint."""
    if isinstance(node, Merge):
        return (*(() if node.base is None else (node.base,)), *node.models)
    return (node.on,) if isinstance(node, Adapter) and node.on is not None else ()


def digest_of(node: Node) -> str:
    """What tells a node from others: equal nodes have the same."""
    return node.digest if isinstance(node, _Alike) else f"path {node}"


def label(node: Node) -> str:
    """A node in an error: a merge inside another is not spelt out."""
    if isinstance(node, Merge):
        return f"<{node.how.name} of {len(node.models)} models>"
    return f"<adapter {str(node.path)!r}>" if isinstance(node, Adapter) else repr(str(node))


def recipe_dict(recipe: MergeRecipe) -> dict[str, Any]:
    """A recipe as JSON-ready data; ``recipe_from`` reads it back.

    Merges that are named several times get a name of their own. So it grows with the number of
    nodes, and not with that of the paths to them.
    """
    names = _names(recipe.merge)
    named = {names[merge.digest]: merge for merge in _merges(recipe.merge) if merge.digest in names}
    options = {"dtype": recipe.dtype, "ignore": list(recipe.ignore)}
    given = {key: value for key, value in options.items() if value}
    tables = {name: _merge_dict(merge, names) for name, merge in named.items()}
    return {**_merge_dict(recipe.merge, names), **given, **({"merge": tables} if tables else {})}


def _merges(top: Merge) -> Iterator[Merge]:
    """Every merge of a recipe once, the top first."""
    waiting: list[Node] = [top]
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        if digest_of(node) not in seen:
            seen.add(digest_of(node))
            waiting += reversed(nodes_inside(node))
            if isinstance(node, Merge):
                yield node


def _names(top: Merge) -> dict[str, str]:
    """Names, by digest, for the merges that are written several times; no path is called so."""
    written: Counter[str] = Counter()
    paths: set[str] = set()
    for merge in _merges(top):
        waiting = deque(nodes_inside(merge))
        while waiting:
            node = waiting.popleft()
            if isinstance(node, Merge):
                written[node.digest] += 1
                continue
            paths.add(str(node.path if isinstance(node, Adapter) else node))
            waiting += nodes_inside(node)  # adapters have no names; they are written each time
    several = [digest for digest, count in written.items() if count > 1]
    free = (
        name for number in range(len(several) + len(paths)) if (name := f"m{number}") not in paths
    )
    return dict(zip(several, free, strict=False))


def _node_dict(node: Node, names: Mapping[str, str]) -> Any:
    if isinstance(node, Adapter):
        on = {} if node.on is None else {"on": _node_dict(node.on, names)}
        return {"path": str(node.path), **on}
    if not isinstance(node, Merge):
        return str(node)
    return names.get(node.digest) or _merge_dict(node, names)


def _merge_dict(node: Merge, names: Mapping[str, str]) -> dict[str, Any]:
    weights = node.weights or ((1.0,) * len(node.models) if node.how.weights else ())
    defaults = {name: parameter.default for name, parameter in node.how.parameters.items()}
    return {
        "method": node.how.name,
        **({} if node.base is None else {"base": _node_dict(node.base, names)}),
        "models": [_node_dict(model, names) for model in node.models],
        **({"weights": json_ready(weights)} if weights else {}),
        **{name: json_ready(node.parameters.get(name, value)) for name, value in defaults.items()},
        "seed": node.seed,
    }


def _seal(node: Adapter | Merge, inside: tuple[Node, ...], identity: list[Any]) -> None:
    """Set the depth and the digest of a node. Raises ``UsageError`` beyond ``MAX_NESTED``."""
    depth = 1 + max(
        (each.depth for each in inside if isinstance(each, (Adapter, Merge))), default=0
    )
    if depth > MAX_NESTED:
        raise too_nested()
    digest = blake2b(json_text(identity).encode("utf-8"), digest_size=16).hexdigest()
    object.__setattr__(node, "depth", depth)
    object.__setattr__(node, "digest", digest)


def too_nested() -> UsageError:
    """The error for nodes nested too deep."""
    return UsageError(
        f"More than {MAX_NESTED} merges and adapters are inside each other, which is more than can be worked "
        "through. Merge the inner ones into a folder first, and name that folder."
    )


def _spelt(schedule: Schedule) -> Any:
    """A schedule with the order of its patterns, of which the first that matches counts."""
    return [*schedule.items()] if isinstance(schedule, Mapping) else schedule


def _is_path(value: object) -> bool:
    return bool(value) if isinstance(value, str) else isinstance(value, os.PathLike)


def _check_node(key: str, value: object) -> None:
    if not _is_path(value) and not isinstance(value, (Adapter, Merge)):
        raise UsageError(
            f"{key} holds {shown(value)}, which is no model. Give a path, a hub id, an Adapter or a Merge."
        )


def _check_kinds(merge: Merge) -> None:
    """Raise ``UsageError`` for models of the wrong type and for a seed out of range."""
    for model in merge.models:
        _check_node("models", model)
    if merge.base is not None:
        _check_node("base", merge.base)
    if not 0 <= merge.seed <= MAX_SEED:
        raise UsageError(
            f"The seed is {shown(merge.seed)}; it must be a whole number from 0 to {MAX_SEED}."
        )
