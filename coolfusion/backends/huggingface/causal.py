"""The backend for ``transformers`` causal language models.

The way to compute is chosen by a trial, never by the name of a model. Packed passes are used if
they give the model's own numbers. Otherwise snapshots of its state are tried, then recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.huggingface.logits import read_distributions, read_scores
from coolfusion.backends.huggingface.packed import PackedPasses
from coolfusion.backends.huggingface.probing import (
    Passes,
    agrees,
    drafted,
    length_limit,
    spelled,
    vocab_size,
)
from coolfusion.backends.huggingface.snapshots import SnapshotPasses
from coolfusion.errors import ContextLengthError, SourceError, UsageError

DEFAULT_ROWS = 64


@final
class TransformersBackend:
    """Any ``AutoModelForCausalLM`` behind the seam of ``coolfusion.backends.base``.

    The model is never altered. ``max_rows`` is the most texts whose keys and values stay cached
    between calls. Raises ``UsageError`` for a model in training mode or one that cannot be run.
    """

    def __init__(self, model: Any, *, max_rows: int = DEFAULT_ROWS) -> None:
        if model.training:
            raise UsageError(
                "The model is in training mode, where dropout changes its answers. Call model.eval()."
            )
        self._model = model
        config = model.config.get_text_config()
        self._vocab_size = vocab_size(config)
        self._context_length = length_limit(config)
        self._passes = _choose_passes(model, max_rows)

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
        """How queries are answered: "packed" or "snapshots"."""
        return "packed" if isinstance(self._passes, PackedPasses) else "snapshots"

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries. Cached tokens of a prefix are not computed again.

        Raises ``SourceError`` for an empty prefix or foreign ids, ``ContextLengthError`` for too
        many tokens, and ``NonFiniteError`` for NaN.
        """
        for query in queries:
            self._check(query)
        return self._passes.answer(queries, read_scores)

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Whole distributions for each query of a batch. Raises as ``score`` does."""
        for query in queries:
            self._check(query)
        return self._passes.answer(queries, read_distributions)

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


def _choose_passes(model: Any, max_rows: int) -> Passes:
    """The fastest passes that give the numbers of a plain forward pass of this model."""
    probe = _probe(vocab_size(model.config))
    try:
        with torch.inference_mode():
            expected = [_plain_scores(model, query) for query in probe]
    except Exception as error:
        raise UsageError(f"The model cannot be run: {type(error).__name__}: {error}") from error
    makers = (
        lambda: PackedPasses(model, max_rows),
        lambda: SnapshotPasses(model, None),
        lambda: SnapshotPasses(model, 1),
    )
    for make in makers:
        if agrees(make(), probe, expected, model.dtype):
            return make()
    return SnapshotPasses(model, 0)


def _probe(size: int) -> list[Query]:
    """Two candidates after one prefix, then a longer prefix that continues the first of them."""
    ids = [7 * i * i + 3 * i + 1 for i in range(16)]
    tokens = tuple(token % size for token in ids)
    return [
        Query(tokens[:5], tokens[5:8]),
        Query(tokens[:5], tokens[9:11]),
        Query(tokens[:7], tokens[11:14]),
    ]


def _plain_scores(model: Any, query: Query) -> list[float]:
    ids = torch.tensor([list(query.prefix + query.continuation)], device=model.device)
    return spelled(model(input_ids=ids, use_cache=False).logits[0], query)
