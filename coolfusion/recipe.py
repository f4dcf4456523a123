"""What is decided before decoding: how to fuse (a recipe) and how far to go (a request)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from coolfusion.backend import GREEDY, Sampling
from coolfusion.boundaries import Boundary, boundary_named, words
from coolfusion.ending import EndRule, compete, joint_odds
from coolfusion.errors import UsageError
from coolfusion.reranking import RERANKERS, Reranker, lead, mean_nll, mean_perplexity, weighted


@dataclass(frozen=True, slots=True)
class Recipe:
    """How sources are fused: where drafts are cut, how they are judged, how the end is decided.

    ``weights`` (by source name; none: equal ones) are those of the end question. A reranker
    brings its own: ``make_recipe`` keeps the two the same.
    """

    boundary: Boundary = words
    reranker: Reranker = mean_nll
    end_rule: EndRule = joint_odds
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def ends_compete(self) -> bool:
        """Whether a draft that ends is a candidate like any other (the paper's rule)."""
        return self.end_rule is compete


PRESETS: Mapping[str, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(words, mean_perplexity, compete),
}


@dataclass(frozen=True, slots=True)
class Request:
    """Limits and habits of one response.

    ``max_new_tokens`` bounds the response in the tokens of the source that needs most.
    ``max_segment_tokens`` overrides the boundary's own cap. A source that fails is dropped
    and the others go on (``on_source_error="drop"``), or the failure is raised ("raise").
    """

    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    max_segment_tokens: int | None = None
    on_source_error: str = "drop"

    def __post_init__(self) -> None:
        _check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _check(
            self.max_segment_tokens is None or self.max_segment_tokens >= 1,
            "max_segment_tokens",
            self.max_segment_tokens,
            "at least 1, or None for the boundary's own cap",
        )
        _check(all(self.stop), "stop", self.stop, "made of strings that are not empty")
        _check(
            self.on_source_error in ("drop", "raise"),
            "on_source_error",
            self.on_source_error,
            '"drop" or "raise"',
        )
        sampling = self.sampling
        usable = math.isfinite(sampling.temperature) and sampling.temperature >= 0
        _check(usable, "temperature", sampling.temperature, "a finite number, 0 (greedy) or above")
        _check(0 < sampling.top_p <= 1, "top_p", sampling.top_p, "above 0 and at most 1")
        _check(sampling.top_k >= 0, "top_k", sampling.top_k, "0 (off) or above")
        _check(sampling.seed >= 0, "seed", sampling.seed, "0 or above")


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {value!r}; it must be {wanted}.")


def make_recipe(
    preset: str = "default",
    *,
    reranker: str | Reranker | None = None,
    weights: Mapping[str, float] | None = None,
    lead_source: str | None = None,
    boundary: str | Boundary | None = None,
) -> Recipe:
    """A preset with some of its parts replaced; names are those of the built-in parts."""
    if preset not in PRESETS:
        raise UsageError(f'There is no preset "{preset}". Choose one of {", ".join(PRESETS)}.')
    base = PRESETS[preset]
    if lead_source is not None and (reranker is not None or weights):
        raise UsageError(
            "A lead source judges alone. Give either a lead, or a reranker and weights."
        )
    judge = _reranker(reranker) if reranker is not None else base.reranker
    if lead_source is not None:
        judge, weights = lead(lead_source), {lead_source: 1.0}
    elif weights:
        judge = weighted(judge, weights)
    if isinstance(boundary, str):
        boundary = boundary_named(boundary)
    return Recipe(boundary or base.boundary, judge, base.end_rule, dict(weights or {}))


def _reranker(choice: str | Reranker) -> Reranker:
    if not isinstance(choice, str):
        return choice
    if choice not in RERANKERS:
        raise UsageError(
            f'There is no reranker "{choice}". Choose one of {", ".join(RERANKERS)}, or name a lead source.'
        )
    return RERANKERS[choice]
