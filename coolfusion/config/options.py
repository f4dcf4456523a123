"""What is said of a fusion by keywords, checked together before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coolfusion.backends.source import check_names
from coolfusion.builtin import builtin_paths
from coolfusion.config.strategies import (
    MIXTURE,
    SEGMENTS,
    check_mixture_options,
    strategy_named,
)
from coolfusion.decoding.mixture.options import Mixture, make_mixture
from coolfusion.decoding.mixture.rules import MixingRule
from coolfusion.decoding.segments.recipe import Recipe, make_recipe
from coolfusion.decoding.segments.rerankers import weights_named
from coolfusion.errors import UsageError


@dataclass(frozen=True, slots=True)
class FusionPlan:
    """What options say of a fusion: the sources' names, the strategy, and how each one works."""

    names: list[str]
    strategy: str
    recipe: Recipe
    mixture: Mixture


def check_fusion_options(
    models: Sequence[str | Path] | None,
    names: Sequence[str] | None = None,
    *,
    strategy: str | None = None,
    mixing: str | MixingRule | None = None,
    route: str | None = None,
    drafter: str | Path | None = None,
    **parts: Any,
) -> FusionPlan:
    """All that can be said of a fusion before anything is loaded, checked against each other.

    ``parts`` are keywords of ``check_recipe_options``. Raises ``UsageError`` naming the option that
    is wrong, or that does not go with the strategy.
    """
    chosen = strategy_named(strategy or SEGMENTS)
    if chosen == MIXTURE:
        check_mixture_options({**parts, "drafter": drafter})
    labels, recipe = check_recipe_options(models, names, **parts)
    mixture = make_mixture(mixing, weights=recipe.weights, prior=recipe.prior, route=route)
    return FusionPlan(labels, chosen, recipe, mixture)


def check_recipe_options(
    models: Sequence[str | Path] | None,
    names: Sequence[str] | None = None,
    *,
    weights: Mapping[str, float] | Sequence[float] | None = None,
    lead: str | None = None,
    **parts: Any,
) -> tuple[list[str], Recipe]:
    """The sources' names and the recipe, checked against each other before anything is loaded.

    ``parts`` are keywords of ``make_recipe``.
    """
    paths = list(models or builtin_paths())
    labels = list(names) if names is not None else [Path(str(path)).name for path in paths]
    if len(labels) != len(paths):
        raise UsageError(f"{len(paths)} models were given {len(labels)} names. Give one each.")
    check_names(labels)
    if weights is not None and not isinstance(weights, Mapping):
        weights = dict(zip(labels, one_each(weights, len(paths), "weights"), strict=True))
    if isinstance(parts.get("reranker"), str) and lead is None and not weights:
        named_lead, named = weights_named(parts["reranker"])
    else:
        named_lead, named = lead, dict(weights or {})
    for each in [*named, *([named_lead] if named_lead else [])]:
        if each not in labels:
            raise UsageError(f'There is no source "{each}". The sources are {labels}.')
    missing = [label for label in labels if named and label not in named]
    if missing:
        raise UsageError(f'There is no weight for source "{missing[0]}". Give one to each.')
    return labels, make_recipe(weights=weights, lead_source=lead, **parts)


def one_each(value: Any, count: int, what: str) -> list[Any]:
    """One value per source from a single value or a sequence of them."""
    if value is None or isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{what} has {len(value)} entries for {count} models. Give one each.")
    return list(value)
