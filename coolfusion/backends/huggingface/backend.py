"""The backend for ``transformers`` causal language models.

What a model can do is found out by trying, never by its name: packed passes if they give
the model's own numbers, else snapshots of its state, else recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, final

import torch

from coolfusion.backend import Distributions, Query, Scores
from coolfusion.backends.huggingface.packed import PackedPasses
from coolfusion.backends.huggingface.picking import Answer, Read, read_distributions, read_scores
from coolfusion.backends.huggingface.snapshots import SnapshotPasses
from coolfusion.backends.huggingface.vocabulary import vocab_size
from coolfusion.errors import ContextLengthError, SourceError, UsageError

DEFAULT_ROWS = 64


class Passes(Protocol):
    """A way to answer queries with a model."""

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer a batch of queries in order, by what ``read`` makes of their logits."""
        ...


@final
class TransformersBackend:
    """Any ``AutoModelForCausalLM`` behind the seam of ``coolfusion.backend``.

    The model must be in evaluation mode and is never altered. ``max_rows`` bounds how many
    texts keep their keys and values between calls.
    """

    def __init__(self, model: Any, *, max_rows: int = DEFAULT_ROWS) -> None:
        if model.training:
            raise UsageError(
                "The model is in training mode, where dropout changes its answers. Call model.eval()."
            )
        self._model = model
        config = model.config.get_text_config()
        self._vocab_size = vocab_size(config)
        self._context_length = _context_length(config)
        self._passes = _choose_passes(model, max_rows)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocab_size

    @property
    def context_length(self) -> int | None:
        """Most tokens the model was made for; None where its configuration names no limit."""
        return self._context_length

    @property
    def device(self) -> str:
        """Where the model is; sources on different devices answer at the same time."""
        return str(self._model.device)

    @property
    def strategy(self) -> str:
        """How queries are answered: "packed" or "snapshots"."""
        return "packed" if isinstance(self._passes, PackedPasses) else "snapshots"

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries; what is cached of a prefix is not computed again."""
        for query in queries:
            self._check(query)
        return self._passes.answer(queries, read_scores)

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Answer a batch of queries by whole distributions."""
        for query in queries:
            self._check(query)
        return self._passes.answer(queries, read_distributions)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """Let the model continue each query by ``num_tokens`` picks."""
        drafted = [_as_draft(scores) for scores in self.score([_at_end(q) for q in queries])]
        for _ in range(num_tokens - 1):
            asked = [
                _at_end(replace(query, continuation=query.continuation + so_far.picks))
                for query, so_far in zip(queries, drafted, strict=True)
            ]
            drafted = [_longer(*pair) for pair in zip(drafted, self.score(asked), strict=True)]
        return drafted

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


def _at_end(query: Query) -> Query:
    """The question what follows a query's continuation."""
    if not query.continuation:
        return query
    return replace(query, prefix=query.prefix + query.continuation, continuation=())


def _as_draft(scores: Scores) -> Scores:
    """A score of nothing, as a draft of the one token that was picked."""
    return _longer(Scores((), (), (), ()), scores)


def _longer(so_far: Scores, step: Scores) -> Scores:
    """A draft with one more token."""
    return Scores(
        so_far.log_probs + step.pick_log_probs,
        so_far.picks + step.picks,
        so_far.pick_log_probs + step.pick_log_probs,
        so_far.watched + step.watched,
        so_far.num_forwarded + step.num_forwarded,
        so_far.num_passes + step.num_passes,
    )


def _context_length(config: Any) -> int | None:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _choose_passes(model: Any, max_rows: int) -> Passes:
    """The fastest way that gives the numbers of a plain forward pass of this model."""
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
        if _agrees(make(), probe, expected, model.dtype):
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
    log_probs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
    first = len(query.prefix)
    return [float(log_probs[first + i - 1, token]) for i, token in enumerate(query.continuation)]


def _agrees(
    passes: Passes, probe: list[Query], expected: list[list[float]], dtype: torch.dtype
) -> bool:
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    try:
        answers = passes.answer(probe[:2], read_scores) + passes.answer(probe[2:], read_scores)
    except Exception:
        return False
    return all(
        abs(got - want) <= tolerance
        for scores, wanted in zip(answers, expected, strict=True)
        for got, want in zip(scores.log_probs, wanted, strict=True)
    )
