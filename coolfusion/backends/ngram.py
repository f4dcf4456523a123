"""An exact n-gram model as a backend: no weights, no torch, every number checkable by hand.

Its smoothing is that of MacKay and Peto (1995), a hierarchical Dirichlet language model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import final

import numpy as np

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.sampling import pick
from coolfusion.checks.arguments import checked
from coolfusion.errors import ContextLengthError, SourceError, UsageError
from coolfusion.types import Floats


@final
class NgramBackend:
    """An interpolated n-gram model over ids.

    The probability of a token after a context of at most ``order - 1`` tokens is

        p_n(t | h) = (count(h, t) + strength * p_{n-1}(t | h')) / (count(h) + strength)

    Here ``h'`` drops the oldest token of ``h``, and ``p_0`` is uniform over ``vocab_size``.
    Raises ``UsageError`` for an order, a strength or a vocabulary size that is too small.
    """

    @checked
    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        vocab_size: int,
        *,
        order: int = 3,
        strength: float = 0.1,
        context_length: int | None = None,
    ) -> None:
        if order < 1 or strength <= 0 or vocab_size < 1:
            raise UsageError(
                f"An n-gram model needs order >= 1, strength > 0 and vocab_size >= 1, got "
                f"{order}, {strength} and {vocab_size}."
            )
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._order = order
        self._strength = strength
        self._counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for ids in texts:
            for position, token in enumerate(ids):
                for length in range(min(order - 1, position) + 1):
                    self._counts[tuple(ids[position - length : position])][token] += 1
        self._log_distribution = lru_cache(maxsize=4096)(self._compute)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocab_size

    @property
    def context_length(self) -> int | None:
        """Most tokens a query may have; None: no limit."""
        return self._context_length

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer queries one after another. Every token counts as computed.

        Raises ``ContextLengthError`` for too many tokens and ``SourceError`` for foreign ids.
        """
        return [self._score(query) for query in queries]

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """Continue every query by ``num_tokens`` picks."""
        return [self._draft(query, num_tokens) for query in queries]

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Whole distributions for each query."""
        return [
            Distributions(np.array(self._rows(query)), len(query.continuation) + 1, 1)
            for query in queries
        ]

    def _rows(self, query: Query) -> list[Floats]:
        """The distribution after the prefix and after every token of the continuation."""
        ids = query.prefix + query.continuation
        self._check(ids)
        self._check_ids(query.watch)
        ends = range(len(query.prefix), len(ids) + 1)
        return [self._log_distribution(self._history(ids, end)) for end in ends]

    def _score(self, query: Query) -> Scores:
        first, rows = len(query.prefix), self._rows(query)
        picks = [pick(row, query.sampling, first + i) for i, row in enumerate(rows)]
        return Scores(
            tuple(float(row[token]) for row, token in zip(rows, query.continuation, strict=False)),
            tuple(picks),
            tuple(float(row[token]) for row, token in zip(rows, picks, strict=True)),
            tuple(_log_watched(row, query.watch) for row in rows),
            num_forwarded=len(query.continuation) + 1,
            num_passes=1,
        )

    def _draft(self, query: Query, num_tokens: int) -> Scores:
        drafted: tuple[int, ...] = ()
        prefix = query.prefix + query.continuation
        for _ in range(num_tokens):
            step = self._score(Query(prefix + drafted, (), query.watch, query.sampling))
            drafted += (step.picks[0],)
        whole = self._score(Query(prefix, drafted, query.watch, query.sampling))
        return Scores(
            whole.log_probs,
            whole.picks[:-1],
            whole.pick_log_probs[:-1],
            whole.watched[:-1],
            num_forwarded=num_tokens,
            num_passes=num_tokens,
        )

    def _check(self, ids: tuple[int, ...]) -> None:
        if self._context_length is not None and len(ids) > self._context_length:
            raise ContextLengthError(
                f"The query has {len(ids)} tokens, but the context window holds {self._context_length}."
            )
        self._check_ids(ids)

    def _check_ids(self, ids: tuple[int, ...]) -> None:
        foreign = [token for token in ids if not 0 <= token < self._vocab_size]
        if foreign:
            raise SourceError(
                f"An id is outside the vocabulary of {self._vocab_size}: {foreign[0]}."
            )

    def _history(self, ids: tuple[int, ...], end: int) -> tuple[int, ...]:
        return ids[max(0, end - self._order + 1) : end]

    def _compute(self, history: tuple[int, ...]) -> Floats:
        probability = np.full(self._vocab_size, 1.0 / self._vocab_size)
        for length in range(len(history) + 1):
            counts = self._counts.get(history[len(history) - length :])
            if not counts:
                continue
            total = sum(counts.values())
            probability = self._strength * probability
            for token, count in counts.items():
                probability[token] += count
            probability /= total + self._strength
        log_probability: Floats = np.log(probability)
        return log_probability


def _log_watched(log_probs: Floats, ids: tuple[int, ...]) -> float:
    if not ids:
        return float("-inf")
    return min(0.0, float(np.logaddexp.reduce(log_probs[list(ids)])))
