"""A merge as a checkpoint whose tensors are computed when they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from coolfusion.errors import LoadError, UsageError
from coolfusion.merging.adapters import base_of, is_adapter, open_adapted
from coolfusion.merging.agreement import agree, name_in
from coolfusion.merging.checkpoint import FLOATS, Checkpoint, Description, wider
from coolfusion.merging.merge_recipe import (
    Adapter,
    Merge,
    MergeRecipe,
    Node,
)
from coolfusion.merging.methods import Inputs
from coolfusion.merging.schedules import Schedule, depths_of, value_at
from coolfusion.merging.stored import open_stored


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
        return model.read(name_in(model.about, name, self.about.infos) or name)

    def _shared(self, name: str) -> torch.Tensor:
        first, *others = self._everyone()
        tensor = first.read(name)
        for other in others:
            if not torch.equal(tensor, other.read(name)):
                raise UsageError(
                    f'Tensor "{name}" holds {tensor.dtype} and differs between "{first.about.label}" and '
                    f'"{other.about.label}"; whole numbers have no average. If the model does not need it, ignore it.'
                )
        return tensor

    def _everyone(self) -> Iterator[Checkpoint]:
        yield from [*([] if self.base is None else [self.base]), *self.models]


def open_recipe(recipe: MergeRecipe) -> MergedCheckpoint:
    """The checkpoint that a recipe describes. All checks that need only headers are made.

    Raises ``LoadError`` for checkpoints that cannot be opened and ``UsageError`` for those that
    do not fit together.
    """
    dtype = None if recipe.dtype is None else FLOATS[recipe.dtype]
    return _open_merge(recipe.merge, recipe.ignore, dtype)


def _open(node: Node, ignore: Sequence[str], dtype: torch.dtype | None) -> Checkpoint:
    if isinstance(node, Merge):
        return _open_merge(node, ignore, dtype)
    if not isinstance(node, Adapter) and not is_adapter(node):
        return open_stored(node, ignore)
    adapter = node if isinstance(node, Adapter) else Adapter(node)
    if adapter.on is not None:
        return open_adapted(adapter.path, _open(adapter.on, ignore, dtype))
    named = base_of(adapter.path)
    try:
        base = _open(named, ignore, dtype)
    except LoadError as error:
        raise LoadError(
            f'The adapter "{adapter.path}" says that it belongs to "{named}", which cannot be opened: {error} '
            "If it is elsewhere, name it (on, or --on)."
        ) from error
    return open_adapted(adapter.path, base)


def _open_merge(merge: Merge, ignore: Sequence[str], dtype: torch.dtype | None) -> MergedCheckpoint:
    base = None if merge.base is None else _open(merge.base, ignore, dtype)
    models = tuple(_open(model, ignore, dtype) for model in merge.models)
    everyone = [*([] if base is None else [base]), *models]
    label = f"{merge.how.name}({', '.join(one.about.label for one in everyone)})"
    about = agree([one.about for one in everyone], label)
    if dtype is not None:
        about = _stored_as(about, dtype)
    return MergedCheckpoint(merge, about, models, base, _settings(merge, about))


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
        if how.averages and math.fsum(weights) == 0:
            raise UsageError(
                f'For tensor "{name}" the weights {list(weights)} sum to 0, so they have no average. Change one.'
            )
        found[name] = Settings(
            weights, {key: value_at(number, name, depths) for key, number in parameters.items()}
        )
    return found
