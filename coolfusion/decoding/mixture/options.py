"""How distributions are mixed: by which rule, with which weights, along which route."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from coolfusion.backends.source import Source
from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.decoding.mixture.byte_route import ByteRoute
from coolfusion.decoding.mixture.route import Route
from coolfusion.decoding.mixture.rules import (
    Arithmetic,
    MixingRule,
    TopKUnion,
    mixing_named,
)
from coolfusion.decoding.mixture.string_route import UnionRoute
from coolfusion.decoding.mixture.token_route import DrawnTokenRoute, TokenRoute
from coolfusion.decoding.mixture.vocabulary import vocabulary_difference
from coolfusion.decoding.source_weights import PromptPrior, prior_named
from coolfusion.errors import UsageError

ROUTES: Final = ("auto", "tokens", "bytes")


@checked
def route_named(name: str) -> str:
    """The route of that name. Raises ``UsageError`` for one that does not exist."""
    if name not in ROUTES:
        raise UsageError(f'There is no route "{name}". Choose one of {", ".join(ROUTES)}.')
    return name


@dataclass(frozen=True, slots=True)
@checked_fields
class Mixture:
    """A mixture of the sources' distributions.

    ``weights`` are by source name, in any unit (none: equal ones); a ``prior`` multiplies them by
    what the prompt tells of each source. ``route`` is "tokens" for sources that share a
    vocabulary, "bytes" for any, or "auto": tokens where they can be. Raises ``UsageError`` for
    weights that are no weights and for a route that does not exist.
    """

    rule: MixingRule = field(default_factory=Arithmetic)
    weights: Mapping[str, float] = field(default_factory=dict)
    prior: PromptPrior | None = None
    route: str = "auto"

    def __post_init__(self) -> None:
        route_named(self.route)
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(
                    f'The weight of source "{name}" is {weight!r}; it must be a finite number, 0 or '
                    "above."
                )
        if self.weights and not any(self.weights.values()):
            raise UsageError(
                f"The weights {dict(self.weights)} are all 0, so that nobody has a say. Give one "
                "source a weight above 0."
            )


@checked
def make_mixture(
    mixing: str | MixingRule | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    prior: str | PromptPrior | None = None,
    route: str | None = None,
) -> Mixture:
    """A mixture with some parts other than the default; names are those of the built-in parts.

    Raises ``UsageError`` for names that do not exist and parts that do not go together.
    """
    mixture = Mixture(
        Arithmetic() if mixing is None else mixing_named(mixing),
        dict(weights or {}),
        None if prior is None else prior_named(prior),
        route or "auto",
    )
    check_route(mixture)
    return mixture


def check_route(mixture: Mixture) -> None:
    """Raise ``UsageError`` for a rule that the route has no meaning for."""
    if mixture.route == "bytes" and isinstance(mixture.rule, TopKUnion):
        raise UsageError(
            f"{mixture.rule.name} is a rule for tokens, and the route is bytes. Leave the route out, "
            "or use the arithmetic or geometric rule."
        )


def check_weights(names: Sequence[str], weights: Mapping[str, float]) -> None:
    """Raise ``UsageError`` unless there are no weights, or one for each of the sources named."""
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise UsageError(
            f'There is a weight for "{unknown[0]}", but no such source. The sources are {list(names)}.'
        )
    missing = [name for name in names if weights and name not in weights]
    if missing:
        raise UsageError(
            f'There is no weight for source "{missing[0]}" in {dict(weights)}. A mixture needs one '
            "for each, 0 to leave it without a say."
        )


def route_for(sources: Sequence[Source], mixture: Mixture) -> Route:
    """The route that these sources can walk. Raises ``UsageError`` where it is not the one asked for."""
    check_route(mixture)
    difference = None if mixture.route == "bytes" else vocabulary_difference(sources)
    if mixture.route == "tokens" and difference is not None:
        raise UsageError(
            f"The sources share no vocabulary: {difference}. Tokens that differ cannot be mixed one "
            "by one; use the route bytes or auto."
        )
    if mixture.route != "bytes" and difference is None:
        route = TokenRoute(sources, mixture.rule)
        return DrawnTokenRoute(route) if mixture.rule.is_linear else route
    if isinstance(mixture.rule, TopKUnion):
        return UnionRoute(sources, mixture.rule)
    return ByteRoute(sources, mixture.rule)
