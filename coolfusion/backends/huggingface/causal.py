"""The backend for ``transformers`` causal language models.

The way to compute is chosen by a trial, never by the name of a model. Packed passes are used if
they give the model's own numbers. Otherwise snapshots of its state are tried, then recomputation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

import torch

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.huggingface.choosing import choose
from coolfusion.backends.huggingface.logits import read_distributions, read_scores, tokens_only
from coolfusion.backends.huggingface.probing import (
    check_evaluating,
    check_ids,
    check_weights,
    described,
    drafted,
    num_ids,
    text_limit,
)
from coolfusion.backends.huggingface.trials import RECOMPUTED
from coolfusion.errors import ContextLengthError, SourceError

DEFAULT_ROWS = 64


@final
class TransformersBackend:
    """Any ``AutoModelForCausalLM`` behind the seam of ``coolfusion.backends.base``.

    The model is never altered. ``max_rows`` is the most texts whose keys and values stay cached
    between calls. ``text_ids`` begin an ordinary text, on which ways to compute are tried.
    ``token_ids`` are the ids that stand for something (None: all). The others have probability 0.

    Raises ``UsageError`` for a model in training mode, one that looks ahead, and one that cannot
    be run. Raises ``NonFiniteError`` for weights that are NaN or infinite, and for answers that
    are NaN.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_rows: int = DEFAULT_ROWS,
        text_ids: Sequence[int] = (),
        token_ids: Collection[int] | None = None,
    ) -> None:
        check_evaluating(model)
        check_weights(model)
        self._model = model
        size = num_ids(model)
        tokens = range(size) if token_ids is None else {t for t in token_ids if 0 <= t < size}
        self._vocab_size = max(tokens, default=size - 1) + 1
        unused = sorted(set(range(self._vocab_size)).difference(tokens))
        unused_ids = torch.tensor(unused, dtype=torch.long, device=model.device)
        self._read_scores = tokens_only(read_scores, self._vocab_size, unused_ids)
        self._read_distributions = tokens_only(read_distributions, self._vocab_size, unused_ids)
        self._way = choose(model, size, tuple(t for t in text_ids if t in tokens))
        self._context_length = _shorter(
            text_limit(model),
            self._way.near if self._way.beyond not in (None, RECOMPUTED) else None,
        )
        self._max_rows = max_rows
        self.forget()

    def __repr__(self) -> str:
        return described(self, self._model)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocab_size

    @property
    def context_length(self) -> int | None:
        """Length of the context window in tokens; None if the configuration names no limit."""
        return self._context_length

    @property
    def device(self) -> str:
        """The model's device; sources on different devices compute at the same time."""
        return str(self._model.device)

    @property
    def strategy(self) -> str:
        """How queries are answered: "packed", "snapshots", "recomputed", or in several ways."""
        return self._way.strategy

    @property
    def slow_because(self) -> str | None:
        """Why texts are computed anew for every question, if they are; None: they are cached."""
        return self._way.slow_because

    def forget(self) -> None:
        """Drop all cached texts, so that the next answers cost what the first ones did."""
        self._passes = self._way.passes(self._model, self._vocab_size, self._max_rows)

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries. Cached tokens of a prefix are not computed again.

        Raises ``SourceError`` for an empty prefix or foreign ids, ``ContextLengthError`` for too
        many tokens, and ``NonFiniteError`` for NaN.
        """
        for query in queries:
            self._check(query)
        return self._passes.answer(queries, self._read_scores)

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Whole distributions for each query of a batch. Raises as ``score`` does."""
        for query in queries:
            self._check(query)
        return self._passes.answer(queries, self._read_distributions)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """Let the model continue each query by ``num_tokens`` picks."""
        return drafted(self.score, queries, num_tokens)

    def _check(self, query: Query) -> None:
        num_tokens = len(query.prefix) + len(query.continuation)
        if not query.prefix:
            raise SourceError(
                "A query has an empty prefix; a model needs at least one token to start from."
            )
        if self._context_length is not None and num_tokens > self._context_length:
            raise ContextLengthError(
                f"The query has {num_tokens} tokens, but the context window holds {self._context_length}."
            )
        check_ids(query.watch, self._vocab_size)


def _shorter(limit: int | None, other: int | None) -> int | None:
    """The smaller of two limits; None is no limit."""
    return min((each for each in (limit, other) if each is not None), default=None)
