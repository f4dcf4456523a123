"""Mixing rules: from what several sources say of the next outcome to what they say together.

With ``p_k(o)`` the probability of outcome ``o`` under source ``k``, and weights ``w_k`` that sum
to 1:

    arithmetic       sum_k w_k p_k(o)                          the mixture of distributions
    geometric        prod_k p_k(o)^w_k / Z                     a product of experts
    top_k_union(n)   sum_k w_k p_k(o) / sum_{u in U} p_k(u)    for o in U, else 0, where U holds the
                                                               n likeliest outcomes of each source

The last is that of UniTE (arXiv 2410.03777), by which no source's long tail counts. GaC (arXiv
2406.12585) averages over all tokens: the arithmetic rule, for sources with one vocabulary. A source without weight has no say in anything, its top n included.
Everything is computed from logarithms in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from coolfusion.backends.sampling import log_sum_exp
from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.decoding.notation import number_of, parse
from coolfusion.errors import SourceError, UsageError
from coolfusion.types import Floats

TOP_K: Final = 10  # as in UniTE's released code
_LOWEST: Final = -1e300


class MixingRule(Protocol):
    """How distributions become one. A rule is a pure function; equal ones give equal results."""

    @property
    def name(self) -> str:
        """What it is called in files and options."""
        ...

    @property
    def is_linear(self) -> bool:
        """Whether drawing a source by its weight, then an outcome of it, draws from the mixture."""
        ...

    def pool(self, log_probs: Floats, weights: Floats) -> Floats:
        """The mixture (outcomes,) in nats but for a constant, of ``log_probs`` (sources, outcomes).

        Both hold -inf for what is impossible and never NaN. ``weights`` (sources,) sum to 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """log sum_k w_k p_k(o): a sample is that of a source drawn by its weight."""

    name = "arithmetic"
    is_linear = True

    def pool(self, log_probs: Floats, weights: Floats) -> Floats:
        """The mixture itself, normalised if its parts are."""
        heard = weights > 0
        rows = log_probs[heard]
        level = np.maximum(rows.max(axis=0), _LOWEST)  # impossible outcomes stay so below it
        rows -= level
        summed: Floats = weights[heard] @ np.exp(rows, out=rows)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(summed, out=summed) + level)


@dataclass(frozen=True, slots=True)
class Geometric:
    """sum_k w_k log p_k(o): an outcome that one source excludes is excluded."""

    name = "geometric"
    is_linear = False

    def pool(self, log_probs: Floats, weights: Floats) -> Floats:
        """The logarithm of the product, which is not normalised."""
        heard = weights > 0
        product: Floats = weights[heard] @ log_probs[heard]
        return product


@dataclass(frozen=True, slots=True)
@checked_fields
class TopKUnion:
    """The arithmetic mixture over the union of the sources' ``size`` likeliest outcomes.

    Every source is renormalised over the union first. Outcomes as likely as the last of a
    source's likeliest are among them too, so that no order of outcomes matters.
    """

    size: int = TOP_K
    is_linear = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(
                f"top_k_union({self.size}) leaves nothing to choose from. Ask for at least 1."
            )

    @property
    def name(self) -> str:
        """Its name with its size, if that is not the usual one."""
        return "top_k_union" if self.size == TOP_K else f"top_k_union({self.size})"

    def pool(self, log_probs: Floats, weights: Floats) -> Floats:
        """The mixture over the union, -inf outside."""
        heard = weights > 0
        rows = log_probs[heard]
        union = np.flatnonzero(np.logical_or.reduce([likeliest(row, self.size) for row in rows]))
        within = rows[:, union]
        totals = np.array([log_sum_exp(row) for row in within])
        some = np.isfinite(totals)  # a source that excludes everything has nothing to add
        combined = np.full(log_probs.shape[1], -np.inf)
        if some.any():
            shares = weights[heard][some]
            combined[union] = Arithmetic().pool(within[some] - totals[some, None], shares)
        return combined


def likeliest(log_probs: Floats, size: int) -> NDArray[np.bool_]:
    """Which outcomes (outcomes,) are as likely as the ``size``-th likeliest, and possible."""
    edge = -np.inf if size >= len(log_probs) else np.partition(log_probs, -size)[-size]
    chosen: NDArray[np.bool_] = (log_probs >= edge) & (log_probs > -np.inf)
    return chosen


def mixed(rule: MixingRule, log_probs: Floats, weights: Floats) -> Floats:
    """The mixture (outcomes,) of ``log_probs`` (sources, outcomes) in nats, summing to 1.

    Raises ``SourceError`` where nothing is left: every outcome is excluded by some source (by
    all of them, for the arithmetic rules).
    """
    pooled = rule.pool(log_probs, weights)
    total = log_sum_exp(pooled)
    if not np.isfinite(total):
        raise SourceError(
            f"The {rule.name} mixture of {len(weights)} sources has no outcome left: each is "
            "excluded by one of them. Use the arithmetic rule, or leave a source out."
        )
    return pooled - total


VETO: Final = "it gives probability 0 to what another source finds likeliest, which excludes that"


def vetoes(
    rule: MixingRule, log_probs: Floats, weights: Floats, favourites: Sequence[int]
) -> list[int]:
    """Which sources exclude a favourite of another one, where the rule lets a single one do so.

    ``log_probs`` (sources, outcomes) are in nats, and ``favourites`` the sources' likeliest
    outcomes. Under the arithmetic rules there is no such source.
    """
    columns = log_probs[:, favourites]
    if np.isfinite(columns).all():
        return []
    lost = np.isneginf(rule.pool(columns, weights))
    excluded = np.isneginf(columns[:, lost]).any(axis=1) & (weights > 0)
    return [int(k) for k in np.flatnonzero(excluded)]


RULES: Final[dict[str, Callable[[], MixingRule]]] = {
    "arithmetic": Arithmetic,
    "geometric": Geometric,
    "top_k_union": TopKUnion,
}
NOTATION: Final = "arithmetic, geometric, top_k_union or top_k_union(N)"


@checked
def mixing_named(choice: str | MixingRule) -> MixingRule:
    """The rule that a text names, or the rule itself. Raises ``UsageError`` with the names."""
    if not isinstance(choice, str):
        return choice
    term = parse(choice)
    if term.word not in RULES or term.value is not None:
        raise UsageError(f'There is no mixing rule "{term}". Choose {NOTATION}.')
    if not term.terms:
        return RULES[term.word]()
    if term.word != "top_k_union" or len(term.terms) > 1:
        raise UsageError(f'"{term}" has more in brackets than {term.word} takes. Write {NOTATION}.')
    size = number_of(term.terms[0], "The size of top_k_union")
    if size != int(size):
        raise UsageError(f"top_k_union({term.terms[0]}) is no whole number of outcomes.")
    return TopKUnion(int(size))
