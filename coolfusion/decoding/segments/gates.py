"""When sources contest at all: gates that let the lead source go on alone, and budgets.

The lead source is the one with the greatest weight, the first of those in a tie. Where a gate
lets its draft pass, the draft is committed; the other sources neither draft nor score. What a
gate is asked, and what a budget counts, is of one response alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.decoding.notation import number_of, parse
from coolfusion.errors import UsageError


@dataclass(frozen=True, slots=True)
class LeadDraft:
    """What the lead source drafted, and what it thinks of it itself.

    ``log_likelihood`` (nats) is of ``num_tokens`` tokens, with the end among them where the draft
    ``ends``. A score table would hold both in this source's column.
    """

    text: str
    ends: bool
    log_likelihood: float
    num_tokens: int

    @property
    def confidence(self) -> float:
        """The geometric mean of its tokens' probabilities, ``exp(L / n)``.

        0 where the source gives probability 0 to the text so far, so that nothing is known.
        """
        if math.isnan(self.log_likelihood):
            return 0.0
        return math.exp(min(0.0, self.log_likelihood / self.num_tokens))


Gate: TypeAlias = Callable[[LeadDraft], bool]


@dataclass(frozen=True, slots=True)
@checked_fields
class Confidence:
    """Lets a draft pass whose geometric-mean token probability is at least ``threshold``.

    0 lets every draft pass. Raises ``UsageError`` for a threshold outside [0, 1].
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(
                f"The gate's threshold is {self.threshold!r}; it is a probability, from 0 (the lead "
                "source always goes on alone) to 1 (only where it is certain)."
            )

    def __call__(self, draft: LeadDraft) -> bool:
        """Whether the draft passes."""
        return draft.confidence >= self.threshold


@dataclass(frozen=True, slots=True)
@checked_fields
class Budget:
    """At most so much contest in one response; after it the lead source goes on alone.

    A contest is a step in which sources score. A limit on ``max_scored_tokens`` (the sum over
    sources) is looked at between steps, so that the last contest may exceed it. None: no limit.
    """

    max_contests: int | None = None
    max_scored_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_contests", "max_scored_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 0:
                raise UsageError(f"The budget's {name} is {limit}; it must be 0 or above.")

    def is_spent(self, num_contests: int, num_scored: int) -> bool:
        """Whether a response with so many contests and scored tokens may have no more."""
        return (self.max_contests is not None and num_contests >= self.max_contests) or (
            self.max_scored_tokens is not None and num_scored >= self.max_scored_tokens
        )


@checked
def gate_named(choice: str | float | Gate) -> Gate:
    """A gate from a threshold of confidence, as a number or as its text, or the gate itself."""
    if isinstance(choice, str):
        choice = number_of(parse(choice), "The gate")
    return Confidence(choice) if isinstance(choice, (int, float)) else choice


@checked
def budget_named(choice: str | int | Budget) -> Budget:
    """A budget from a number of contests, from ``tokens(N)``, or the budget itself.

    Raises ``UsageError`` for anything else.
    """
    if isinstance(choice, Budget):
        return choice
    term = parse(str(choice))
    if term.word == "tokens" and len(term.terms) == 1:
        return Budget(max_scored_tokens=_count(number_of(term.terms[0], "The budget")))
    return Budget(max_contests=_count(number_of(term, "The budget")))


def _count(number: float) -> int:
    if number != int(number):
        raise UsageError(
            f"The budget is {number}; it must be a whole number of contests, or tokens(N)."
        )
    return int(number)
