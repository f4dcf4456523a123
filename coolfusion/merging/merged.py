"""A merge as a checkpoint whose tensors are computed when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import torch

from coolfusion.checks.arguments import checked
from coolfusion.documents import SHOWN
from coolfusion.errors import LoadError, UsageError
from coolfusion.merging.adapters import base_of, is_adapter, open_adapted
from coolfusion.merging.agreement import agree, name_in
from coolfusion.merging.checkpoint import FLOATS, Checkpoint, Description, wider
from coolfusion.merging.merge_recipe import (
    MAX_NESTED,
    Adapter,
    Merge,
    MergeRecipe,
    Node,
    digest_of,
    label,
    too_nested,
)
from coolfusion.merging.methods import Inputs, check_average
from coolfusion.merging.schedules import Schedule, depths_of, value_at
from coolfusion.merging.selection import check_selection, without
from coolfusion.merging.stored import StoredCheckpoint, open_stored


@dataclass(frozen=True, slots=True)
class Settings:
    """The weights and parameters of one tensor, evaluated from the schedules."""

    weights: tuple[float, ...]
    parameters: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MergedCheckpoint:
    """The merge of ``models`` (on ``base``); it holds settings and no tensors."""

    merge: Merge
    about: Description
    models: tuple[Checkpoint, ...]
    base: Checkpoint | None
    settings: Mapping[str, Settings]

    def read(self, name: str) -> torch.Tensor:
        """The merged tensor in the wider type, so that nothing is rounded between two merges.

        Raises ``UsageError`` for tensors of integers or booleans (positions, masks) that differ
        between models.
        """
        info = self.about.infos[name]
        if not info.dtype.is_floating_point:
            return self._shared(name)
        work = wider(info.dtype)
        settings = self.settings[name]
        return self.merge.how.merge(
            Inputs(
                name,
                (self._read(model, name).to(work) for model in self.models),
                settings.weights,
                settings.parameters,
                self.merge.seed,
                None if self.base is None else self._read(self.base, name).to(work),
            )
        )

    def _read(self, model: Checkpoint, name: str) -> torch.Tensor:
        return model.read(name_in(model.about, name) or name)

    def _shared(self, name: str) -> torch.Tensor:
        first, *others = self._everyone()
        tensor = self._read(first, name)
        for other in others:
            if not torch.equal(tensor, self._read(other, name)):
                raise UsageError(
                    f'Tensor "{name}" holds {tensor.dtype} and differs between "{first.about.label}" and '
                    f'"{other.about.label}"; whole numbers have no average. If the model does not need it, ignore it.'
                )
        return tensor

    def _everyone(self) -> Iterator[Checkpoint]:
        yield from [*([] if self.base is None else [self.base]), *self.models]


@final
class SharedCheckpoint:
    """A merge or adapted checkpoint that is named several times, ``uses`` of them.

    A tensor is computed for the first and kept for the others, one tensor at a time. So the work
    grows with the number of nodes of a recipe, and not with that of the paths to them.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.uses = 1
        self._checkpoint = checkpoint
        self._kept: tuple[str, torch.Tensor, int] | None = None

    @property
    def about(self) -> Description:
        """The description of the checkpoint."""
        return self._checkpoint.about

    def read(self, name: str) -> torch.Tensor:
        """The tensor, which is the reader's own and may be changed."""
        if self._kept is not None and self._kept[0] == name:
            _, tensor, left = self._kept
        else:
            tensor, left = self._checkpoint.read(name), self.uses
        self._kept = (name, tensor, left - 1) if left > 1 else None
        return tensor.clone() if left > 1 else tensor


@checked
def open_recipe(recipe: MergeRecipe) -> MergedCheckpoint:
    """The checkpoint that a recipe describes. All checks that need only headers are made.

    Raises ``LoadError`` for checkpoints that cannot be opened. Raises ``UsageError`` for those
    that do not fit together, and for an ``ignore`` that leaves out what the model needs.
    """
    dtype = None if recipe.dtype is None else FLOATS[recipe.dtype]
    opener = _Opener(recipe.ignore, dtype)
    try:
        opened = opener.merge(recipe.merge, 1)
    except UsageError:  # they may not fit because of what is left out, which is said first
        check_selection(opener.whole, recipe.ignore)
        raise
    check_selection(opener.whole, recipe.ignore)
    if not opened.about.infos:
        raise UsageError(f"The checkpoints of {opened.about.label} hold no tensors to merge.")
    return opened


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens every node of a recipe once.

    ``opened`` has the checkpoints by digest. ``whole`` describes those that are stored, before
    any tensor is left out. ``under_way`` are digests of nodes that have been begun.
    """

    ignore: Sequence[str]
    dtype: torch.dtype | None
    opened: dict[str, Checkpoint] = field(default_factory=dict)
    whole: list[Description] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)

    def node(self, node: Node, depth: int) -> Checkpoint:
        """The checkpoint of a node that has ``depth`` - 1 merges and adapters around it."""
        if depth > MAX_NESTED + 1:  # of adapters that name each other in their own files
            raise too_nested()
        digest = digest_of(node)
        found = self.opened.get(digest)
        if isinstance(found, SharedCheckpoint):
            found.uses += 1
        if found is None:
            if digest in self.under_way:
                raise LoadError(
                    f"{label(node)} belongs to itself, by what adapters say of their checkpoints. Name the right "
                    "checkpoint (on, or --on)."
                )
            self.under_way.add(digest)
            found = self._new(node, depth)
            if isinstance(node, (Adapter, Merge)):
                found = SharedCheckpoint(found)
            self.opened[digest] = found
        return found

    def merge(self, merge: Merge, depth: int) -> MergedCheckpoint:
        """A merge of nodes that are opened first."""
        base = None if merge.base is None else self.node(merge.base, depth + 1)
        models = tuple(self.node(model, depth + 1) for model in merge.models)
        everyone = [*([] if base is None else [base]), *models]
        name = f"{merge.how.name}({', '.join(one.about.label for one in everyone)})"
        if len(name) > SHOWN:
            name = label(merge)
        about = agree([one.about for one in everyone], name)
        if self.dtype is not None:
            about = _stored_as(about, self.dtype)
        return MergedCheckpoint(merge, about, models, base, _settings(merge, about))

    def _new(self, node: Node, depth: int) -> Checkpoint:
        if isinstance(node, Merge):
            return self.merge(node, depth)
        if not isinstance(node, Adapter) and not is_adapter(node):
            return self._stored(node)
        adapter = node if isinstance(node, Adapter) else Adapter(node)
        if adapter.on is not None:
            return open_adapted(adapter.path, self.node(adapter.on, depth + 1))
        named = base_of(adapter.path)
        try:
            base = self.node(named, depth + 1)
        except LoadError as error:
            raise LoadError(
                f'The adapter "{adapter.path}" says that it belongs to "{named}", which cannot be opened: {error} '
                "If it is elsewhere, name it (on, or --on)."
            ) from error
        return open_adapted(adapter.path, base)

    def _stored(self, path: str | Path) -> StoredCheckpoint:
        stored = open_stored(path)
        self.whole.append(stored.about)
        about = replace(stored.about, infos=without(stored.about.infos, self.ignore))
        return replace(stored, about=about)


def _stored_as(about: Description, dtype: torch.dtype) -> Description:
    infos = {
        name: replace(info, dtype=dtype) if info.dtype.is_floating_point else info
        for name, info in about.infos.items()
    }
    config = {key: value for key, value in about.config.items() if key != "torch_dtype"}
    return replace(
        about, infos=infos, config={**config, "dtype": str(dtype).removeprefix("torch.")}
    )


def _settings(merge: Merge, about: Description) -> dict[str, Settings]:
    how = merge.how
    default = () if how.weights is None else (how.weights.default,) * len(merge.models)
    parameters: dict[str, Schedule] = {name: p.default for name, p in how.parameters.items()}
    parameters.update(merge.parameters)
    depths = depths_of(about.infos)
    found = {}
    for name, info in about.infos.items():
        if not info.dtype.is_floating_point:
            continue
        weights = tuple(value_at(w, name, depths) for w in merge.weights or default)
        if how.averages:
            check_average(weights, name)
        found[name] = Settings(
            weights, {key: value_at(number, name, depths) for key, number in parameters.items()}
        )
    return found
