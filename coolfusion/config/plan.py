"""What is said of a fusion, checked together before any model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coolfusion.backends.naming import label_of
from coolfusion.backends.source import check_names
from coolfusion.builtin import builtin_paths
from coolfusion.config.kinds import MIXTURE, SEGMENTS, strategy_named
from coolfusion.config.options import FUSION, OPTIONS, options_of
from coolfusion.decoding.mixture.options import Mixture, make_mixture
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


def plan_fusion(models: Sequence[str | Path] | None, said: Mapping[str, Any]) -> FusionPlan:
    """What the options ``said``, by name, come to; checked against each other.

    Nothing is loaded. Raises ``UsageError`` naming the option that is wrong, or that does not go
    with the strategy.
    """
    chosen = strategy_named(said.get("strategy") or SEGMENTS)
    if chosen == MIXTURE:
        check_strategy_options(chosen, said)
    names, recipe = plan_recipe(models, said)
    mixture = make_mixture(
        said.get("mixing"), weights=recipe.weights, prior=recipe.prior, route=said.get("route")
    )
    return FusionPlan(names, chosen, recipe, mixture)


def plan_recipe(
    models: Sequence[str | Path] | None, said: Mapping[str, Any]
) -> tuple[list[str], Recipe]:
    """The sources' names and the recipe that the options ``said``, by name, come to.

    Options that are not of a recipe are left aside. Raises ``UsageError`` naming the one that is
    wrong.
    """
    paths, names = list(models or builtin_paths()), said.get("names")
    labels = list(names) if names is not None else [label_of(path) for path in paths]
    if len(labels) != len(paths):
        raise UsageError(f"{len(paths)} models were given {len(labels)} names. Give one each.")
    check_names(labels)
    parts = recipe_options(said)
    weights, lead = parts.pop("weights", None), parts.pop("lead", None)
    if weights is not None and not isinstance(weights, Mapping):
        weights = dict(zip(labels, one_each(weights, len(paths), "weights"), strict=True))
    reranker = parts.get("reranker")
    if isinstance(reranker, str) and lead is None and not weights:
        named_lead, named = weights_named(reranker)
    else:
        named_lead, named = lead, dict(weights or {})
    check_named_sources(labels, named, named_lead)
    return labels, make_recipe(weights=weights, lead_source=lead, **parts)


def recipe_options(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the recipe, by name; None is not said."""
    names = (each.name for each in options_of(FUSION))
    return {name: said[name] for name in names if said.get(name) is not None}


def check_strategy_options(strategy: str, said: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` naming an option that is said, but means nothing to the strategy."""
    for each in OPTIONS:
        value = said.get(each.name)
        if each.strategy in (None, strategy) or value is None:
            continue
        if each.segments_only and value != each.said_by_default:
            raise UsageError(
                f'{each.name} is {value!r} and the strategy "{MIXTURE}", but {each.segments_only}. '
                f'Leave it out, or use the strategy "{SEGMENTS}".'
            )
        if each.mixture_only:
            raise UsageError(
                f"{each.name} is {value!r}, but {each.mixture_only}, and nothing is mixed here. Leave "
                f'it out, or use the strategy "{MIXTURE}".'
            )


def check_named_sources(
    labels: Collection[str], weights: Mapping[str, float], lead: str | None
) -> None:
    """Raise ``UsageError`` unless weights, if any, are for all sources, and the lead is one."""
    for key, named in (("weights", list(weights)), ("lead", [] if lead is None else [lead])):
        for name in named:
            if name not in labels:
                raise UsageError(
                    f'{key} names "{name}", which is no source. They are {", ".join(labels)}.'
                )
    missing = [label for label in labels if weights and label not in weights]
    if missing:
        raise UsageError(f'There is no weight for source "{missing[0]}". Give one to each.')


def one_each(value: Any, count: int, what: str) -> list[Any]:
    """One value per source from a single value or a sequence of them."""
    if value is None or isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{what} has {len(value)} entries for {count} models. Give one each.")
    return list(value)
