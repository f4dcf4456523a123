"""The recipe of a fusion: boundary, reranker, end rule and what else is decided before decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coolfusion.checks.arguments import check_setting, checked, checked_fields
from coolfusion.decoding.segments.end_rules import (
    END_RULES,
    EndRule,
    joint_odds,
)
from coolfusion.decoding.segments.gates import (
    Budget,
    Gate,
    budget_named,
    gate_named,
)
from coolfusion.decoding.segments.rerankers import (
    Reranker,
    lead,
    mean_nll,
    mean_perplexity,
    reranker_named,
    weighted,
    weights_named,
)
from coolfusion.decoding.source_weights import MAX_ETA, PromptPrior, prior_named
from coolfusion.errors import UsageError
from coolfusion.tokenization.boundaries import Boundary, boundary_named, words

SCORES = ("tokens", "bytes")


@dataclass(frozen=True, slots=True)
@checked_fields
class Recipe:
    """How sources are fused: where drafts are cut, how they are judged, how the end is decided.

    ``weights`` (by source name; none: equal ones) are those of the end question. A reranker
    brings its own: ``make_recipe`` keeps the two the same. The lead source has the greatest
    weight. A ``gate`` may let its draft stand uncontested, and it goes on alone once the
    ``budget`` is spent. A ``prior`` and ``hedge``, the learning rate of Hedge (0: none), multiply
    the weights by what the prompt and the response tell of each source. Every source drafts
    ``num_samples`` times in a step; more than one needs a temperature. ``scores`` says what
    segments are scored by: their canonical "tokens" or all covers of their "bytes".
    """

    boundary: Boundary = words
    reranker: Reranker = mean_nll
    end_rule: EndRule | None = joint_odds
    weights: Mapping[str, float] = field(default_factory=dict)
    gate: Gate | None = None
    budget: Budget | None = None
    prior: PromptPrior | None = None
    hedge: float = 0.0
    num_samples: int = 1
    scores: str = "tokens"

    def __post_init__(self) -> None:
        check_setting(self.scores in SCORES, "scores", self.scores, " or ".join(SCORES))
        usable = 0 <= self.hedge <= MAX_ETA
        wanted = f"a finite learning rate, from 0 (none) to {MAX_ETA:g}"
        check_setting(usable, "hedge", self.hedge, wanted)
        check_setting(self.num_samples >= 1, "num_samples", self.num_samples, "at least 1")

    @property
    def ends_compete(self) -> bool:
        """Whether a draft that ends is a candidate like any other (the paper's rule)."""
        return self.end_rule is None


PRESETS: Mapping[str, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(words, mean_perplexity, None),
}


@checked
def make_recipe(
    preset: str = "default",
    *,
    reranker: str | Reranker | None = None,
    weights: Mapping[str, float] | None = None,
    lead_source: str | None = None,
    boundary: str | Boundary | None = None,
    end_rule: str | EndRule | None = None,
    gate: str | float | Gate | None = None,
    budget: str | int | Budget | None = None,
    prior: str | PromptPrior | None = None,
    hedge: float | None = None,
    num_samples: int | None = None,
    scores: str | None = None,
) -> Recipe:
    """A preset with some of its parts replaced; names are those of the built-in parts.

    ``gate`` is a threshold of confidence, ``budget`` a number of contests or "tokens(N)",
    ``prior`` "prompt" or "prompt(TEMPERATURE)". Raises ``UsageError`` for names that do not
    exist and for parts that exclude each other.
    """
    if preset not in PRESETS:
        raise UsageError(f'There is no preset "{preset}". Choose one of {", ".join(PRESETS)}.')
    base = PRESETS[preset]
    judge, weights = _judge(base, reranker, weights, lead_source)
    if _is_lead(reranker, lead_source) and (prior or hedge):
        raise UsageError(
            "A lead source judges alone, so that weights learnt from the prompt or the response "
            "would change nothing. Leave prior and hedge out, or the lead."
        )
    if isinstance(end_rule, str) and end_rule not in END_RULES:
        raise UsageError(
            f'There is no end rule "{end_rule}". Choose one of {", ".join(END_RULES)}.'
        )
    return Recipe(
        boundary_named(boundary) if isinstance(boundary, str) else boundary or base.boundary,
        judge,
        END_RULES[end_rule] if isinstance(end_rule, str) else end_rule or base.end_rule,
        weights,
        base.gate if gate is None else gate_named(gate),
        base.budget if budget is None else budget_named(budget),
        base.prior if prior is None else prior_named(prior),
        base.hedge if hedge is None else hedge,
        base.num_samples if num_samples is None else num_samples,
        scores or base.scores,
    )


def _judge(
    base: Recipe,
    reranker: str | Reranker | None,
    weights: Mapping[str, float] | None,
    lead_source: str | None,
) -> tuple[Reranker, dict[str, float]]:
    """The reranker, and the weights of the end question that go with it."""
    if lead_source is not None and (reranker is not None or weights):
        raise UsageError(
            "A lead source judges alone. Give either a lead, or a reranker and weights."
        )
    if lead_source is not None:
        return lead(lead_source), {lead_source: 1.0}
    judge = base.reranker
    if isinstance(reranker, str):
        judge = reranker_named(reranker)
        named_lead, named = weights_named(reranker)
        if weights and (named or named_lead):
            raise UsageError(
                f'The reranker "{reranker}" has weights of its own. Give no others beside it.'
            )
        if named_lead is not None:
            return judge, {named_lead: 1.0}
        if named:
            return judge, named
    elif reranker is not None:
        judge = reranker
    return (weighted(judge, weights), dict(weights)) if weights else (judge, {})


def _is_lead(reranker: str | Reranker | None, lead_source: str | None) -> bool:
    named = weights_named(reranker)[0] if isinstance(reranker, str) else None
    return lead_source is not None or named is not None
