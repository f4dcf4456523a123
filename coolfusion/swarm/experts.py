"""The experts that a search starts from, and any point between them as a checkpoint.

Particles start as experts and as sums of them. An update adds positions and velocities with one
factor for all weights. So every position is x = sum_i c[i] x[i] over the experts x[i], with shares
c[i] that sum to 1. The search moves these shares, whatever the size of the model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from coolfusion.checks.arguments import checked_fields
from coolfusion.errors import UsageError
from coolfusion.merging.checkpoint import Checkpoint
from coolfusion.merging.merge_recipe import (
    Adapter,
    Merge,
    MergeRecipe,
    Node,
)
from coolfusion.merging.merged import MergedCheckpoint, Settings, open_recipe
from coolfusion.search import Point


@dataclass(frozen=True, slots=True)
@checked_fields
class Experts:
    """Checkpoints or LoRA adapters of one architecture, given as in a ``Merge``.

    ``dtype`` and ``ignore`` are those of a ``MergeRecipe``. An adapter stands for its checkpoint
    plus its change. Shares thus apply to the changes B A, not to the factors B and A. Raises
    ``UsageError`` for fewer than two experts.
    """

    models: tuple[Node, ...]
    dtype: str | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise UsageError(
                f"A search between experts was given {len(self.models)} models. Give at least 2: it needs pairs."
            )
        self.recipe((1.0,) * len(self.models))

    @property
    def names(self) -> tuple[str, ...]:
        """A short name for each: the end of its path, or the whole path if ends are equal."""
        whole = [_path(model, number) for number, model in enumerate(self.models, 1)]
        ends = [Path(path).name for path in whole]
        count = Counter(ends)
        return tuple(
            end if count[end] == 1 else path for end, path in zip(ends, whole, strict=True)
        )

    def recipe(self, shares: Point) -> MergeRecipe:
        """The merge of the experts with these shares (experts,)."""
        return MergeRecipe(Merge("linear", self.models, weights=shares), self.dtype, self.ignore)

    def open(self) -> MergedCheckpoint:
        """The experts, with all checks that need only headers.

        Raises ``LoadError`` for experts that cannot be opened and ``UsageError`` for those that
        do not fit together.
        """
        return open_recipe(self.recipe((1.0,) * len(self.models)))


def at(opened: MergedCheckpoint, shares: Point) -> Checkpoint:
    """The point with these shares, between experts that are already open."""
    settings = Settings(shares, {})
    return replace(
        opened,
        merge=replace(opened.merge, weights=shares),
        settings=dict.fromkeys(opened.settings, settings),
    )


def _path(model: Node, number: int) -> str:
    if isinstance(model, Merge):
        return f"expert {number}"
    return str(model.path if isinstance(model, Adapter) else model)
