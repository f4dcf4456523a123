"""The space of tuning: the knobs of a fusion and their values.

    weights    of the sources: positive, with a sum of 1
    reranker   by name
    boundary   how finely texts are cut: words, phrases(n), lines, sentences, whole_response
    gate       by its number, or none

A setting is a ``FusionConfig``. Knobs that are not varied, and all other options, keep the values
of the base.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from coolfusion.checks.arguments import checked
from coolfusion.config.file import config_from
from coolfusion.config.options import OPTIONS, FusionConfig
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.errors import UsageError
from coolfusion.types import Floats

WEIGHTS: Final = "weights"
NONE: Final = "none"
MIN_WEIGHT: Final = 0.01  # of a source before normalisation, so that no source is switched off
DIGITS: Final = 4  # of a weight; settings with equal digits are one setting
DEFAULT_CHOICES: Final[Mapping[str, tuple[Any, ...]]] = {
    each.name: tuple(NONE if value is None else value for value in each.tried)
    for each in OPTIONS
    if each.tried
}
KNOBS: Final = (WEIGHTS, *DEFAULT_CHOICES)


@dataclass(frozen=True, slots=True)
class Space:
    """The settings that a search may choose from.

    ``base`` is the setting that all others change. ``choices`` has values by knob; None is the
    preset's own. ``varies_weights``: whether the weights of ``sources`` are tuned too.
    """

    sources: tuple[str, ...]
    base: FusionConfig
    choices: Mapping[str, tuple[Any, ...]]
    varies_weights: bool

    def setting(self, chosen: Mapping[str, Any], weights: Sequence[float] | None) -> FusionConfig:
        """The base with these values of knobs and ``weights`` (sources,), whatever their sum."""
        values: dict[str, Any] = dict(chosen)
        if weights is not None:
            values[WEIGHTS] = self._normalized(weights)
        return replace(self.base, **values)

    def _normalized(self, weights: Sequence[float]) -> dict[str, float]:
        """Weights by name that sum to 1; empty for equal weights, which are the default."""
        if len(set(weights)) == 1:
            return {}
        total = sum(weights)
        return {
            name: round(weight / total, DIGITS)
            for name, weight in zip(self.sources, weights, strict=True)
        }

    def weights_at(self, position: Sequence[float] | Floats) -> tuple[float, ...]:
        """Weights at a position (sources,); coordinates below ``MIN_WEIGHT`` are raised to it."""
        return tuple(max(MIN_WEIGHT, float(x)) for x in position)


@checked
def make_space(
    sources: Sequence[str],
    base: FusionConfig,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    of_references: bool = False,
    only_weights: bool = False,
) -> Space:
    """The space of ``vary``: values by knob; an empty list stands for the default values.

    Without ``vary``, all knobs that matter are varied. With ``of_references`` (nothing is decoded)
    these are weights and boundary, with ``only_weights`` the weights. Raises ``UsageError`` for a
    knob that does not exist or does not matter, and for values that no fusion file may have.
    """
    if len(sources) < 2:
        raise UsageError("There is one source, and tuning is about several. Give at least 2.")
    if vary is None:
        vary = dict.fromkeys(_usual(base, of_references, only_weights), ())
    for knob in vary:
        _check_matters(knob, base, of_references, only_weights)
    if vary.get(WEIGHTS):
        raise UsageError(f"{WEIGHTS} are varied freely; give that knob no values.")
    choices = {
        knob: tuple(_value(base, knob, value) for value in values or DEFAULT_CHOICES[knob])
        for knob, values in vary.items()
        if knob != WEIGHTS
    }
    distinct = {knob: tuple(dict.fromkeys(values)) for knob, values in choices.items()}
    space = Space(tuple(sources), base, distinct, WEIGHTS in vary)
    for reranker in distinct.get("reranker", (base.reranker,)):
        _check_weighs(space, reranker)
    if not space.varies_weights and math.prod(map(len, distinct.values())) < 2:
        raise UsageError("Nothing is varied, so there is nothing to choose. Give a knob values.")
    return space


def label(config: FusionConfig) -> str:
    """The knobs of a setting in one line; different settings have different labels."""
    said = config.said()
    parts = [f"{knob}={said[knob]}" for knob in (*DEFAULT_CHOICES, "lead") if knob in said]
    if config.weights:
        weights = ",".join(f"{name}:{weight!r}" for name, weight in config.weights.items())
        parts.append(f"{WEIGHTS}={weights}")
    return " ".join(parts)


def lattice(num_sources: int, max_points: int) -> tuple[tuple[int, ...], ...]:
    """Evenly spread weights (points, sources) as positive integers with the same sum.

    The sum is the largest that gives at most ``max_points`` points and is itself at most
    ``max_points``. It is at least the number of sources.
    """
    parts = num_sources
    while parts < max_points and math.comb(parts, num_sources - 1) <= max_points:
        parts += 1
    return tuple(_compositions(parts, num_sources))


def _compositions(total: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to write ``total`` as an ordered sum of ``count`` positive integers."""
    for cuts in itertools.combinations(range(1, total), count - 1):
        edges = (0, *cuts, total)
        yield tuple(b - a for a, b in itertools.pairwise(edges))


def _usual(base: FusionConfig, of_references: bool, only_weights: bool) -> list[str]:
    if only_weights:
        return [WEIGHTS]
    judged = [] if base.lead is not None else [WEIGHTS, "reranker"]
    usual = [*judged, *(knob for knob in DEFAULT_CHOICES if knob != "reranker")]
    return [knob for knob in usual if knob in (WEIGHTS, "boundary") or not of_references]


def _check_matters(knob: str, base: FusionConfig, of_references: bool, only_weights: bool) -> None:
    if knob not in KNOBS:
        raise UsageError(f'There is no knob "{knob}". Choose from {", ".join(KNOBS)}.')
    if base.lead is not None and knob in (WEIGHTS, "reranker"):
        raise UsageError(
            f"{knob} cannot be varied beside a lead, which judges alone. Leave the lead out."
        )
    if of_references and knob not in (WEIGHTS, "boundary"):
        raise UsageError(
            f"{knob} does not change the perplexity of a reference. Vary weights or boundary, or "
            "choose a metric of answers."
        )
    if only_weights and knob != WEIGHTS:
        raise UsageError(
            f"A swarm moves through weights, and {knob} has no values in between. Search for {knob} by "
            "grid or random, then for weights by swarm with --config and the resulting file."
        )


def _check_weighs(space: Space, reranker: str | None) -> None:
    """Raise ``UsageError`` if weights are varied and the reranker has weights of its own."""
    if space.varies_weights:
        make_recipe(
            space.base.preset or "default",
            reranker=reranker,
            weights=dict.fromkeys(space.sources, 1.0),
        )


def _read(value: Any) -> Any:
    """A text as a number, if it is one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _value(base: FusionConfig, knob: str, value: Any) -> Any:
    """A knob's value as in a fusion file; None for the preset's own value."""
    if isinstance(value, str) and value.strip().lower() == NONE:
        return None
    try:
        checked = getattr(config_from({knob: _read(value)}), knob)
    except UsageError as error:
        raise UsageError(f"Cannot vary {error}") from None
    preset = base.preset or "default"
    return None if make_recipe(preset, **{knob: checked}) == make_recipe(preset) else checked
