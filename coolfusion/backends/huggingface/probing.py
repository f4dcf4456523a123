"""What every kind of pass through a model shares: drafts from scores, and trials of a new kind.

The check of ids is here too: an id outside the embedding would end a GPU process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.huggingface.logits import Answer, Read, read_lines
from coolfusion.errors import NonFiniteError, SourceError, UsageError

GROSS = 0.25  # of the spread of logits: what a wrong way changes
RULED_OUT = 1e3  # nats below the likeliest id; some models rule ids out by such logits


class Passes(Protocol):
    """A way to answer queries with a model."""

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer a batch of queries in order. ``read`` turns their logits into answers."""
        ...


def drafted(
    score: Callable[[Sequence[Query]], list[Scores]], queries: Sequence[Query], num_tokens: int
) -> list[Scores]:
    """Continue each query by ``num_tokens`` picks, one after another."""
    drafts = [_longer(_NOTHING, scores) for scores in score([_at_end(q) for q in queries])]
    for _ in range(num_tokens - 1):
        asked = [
            _at_end(replace(query, continuation=query.continuation + so_far.picks))
            for query, so_far in zip(queries, drafts, strict=True)
        ]
        drafts = [_longer(*pair) for pair in zip(drafts, score(asked), strict=True)]
    return drafts


def agrees(
    make: Callable[[], Passes],
    calls: Sequence[Sequence[Query]],
    expected: Callable[[Query], torch.Tensor],
    tolerance: float,
) -> bool:
    """Whether the passes that ``make`` gives answer all ``calls`` with the logits of plain ones.

    ``expected`` gives the logits (tokens, vocabulary) from the last token of a query's prefix on.
    Passes that cannot be made or run do not agree.
    """
    try:
        passes = make()
        return all(
            difference(lines.logits, expected(query)) <= tolerance
            for queries in calls
            for query, lines in zip(queries, passes.answer(queries, read_lines), strict=True)
        )
    except Exception:
        return False


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far logits (tokens, vocabulary) are from the wanted ones: 0 if they say the same.

    It is a share of how far the wanted logits of a token lie from their mean. So their unit does
    not matter. What is added to all logits of a token changes no probability and does not count.
    Ids that are ruled out are left out. NaN gives NaN. Own formula.
    """
    found, wanted = found.float(), wanted.float()
    ruled_out = wanted <= wanted.amax(dim=-1, keepdim=True) - RULED_OUT
    number = (~ruled_out).sum(dim=-1, keepdim=True)

    def spread(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.masked_fill(ruled_out, 0.0)
        means = logits.sum(dim=-1, keepdim=True) / number
        return (logits - means).masked_fill(ruled_out, 0.0).norm()

    error = spread(found - wanted)
    return float(error / spread(wanted)) if error != 0 else 0.0


def rounding(model: Any) -> float:
    """The ``difference`` up to which two passes through a model count as the same.

    It is the geometric mean of two shares. One rounding in the coarsest type of the model's
    weights changes the first, and a wrong way to compute the second. Own formula;
    docs/inside/models.md has the reason and the measurements.
    """
    kinds = {each.dtype for each in model.parameters() if each.is_floating_point()}
    # Weights of one byte are quantized. They are widened before anything is computed. Wider types
    # than single precision gain nothing: norms and softmaxes are computed in it.
    widths = [torch.finfo(kind) for kind in kinds | {torch.float32} if kind.itemsize > 1]
    return math.sqrt(max(width.eps for width in widths) * GROSS)


def length_limit(config: Any, *names: str) -> int | None:
    """A model's number of positions, under one of ``names`` or the usual ones; None: unknown."""
    for name in (*names, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def text_limit(model: Any) -> int | None:
    """Most tokens of a text that a decoder takes; None if its configuration names no limit.

    Learned positions may begin after that of padding: RoBERTa counts from 2. The table then has
    more rows than a text may have tokens.
    """
    limits = [length_limit(model.config.get_text_config(decoder=True))]
    limits += [
        part.num_embeddings - part.padding_idx - 1
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Embedding)
        and part.padding_idx is not None
        and "position" in name.rpartition(".")[2]
    ]
    return min((each for each in limits if each is not None), default=None)


_NOTHING = Scores((), (), (), ())


def _at_end(query: Query) -> Query:
    """The query for the token after a query's continuation."""
    if not query.continuation:
        return query
    return replace(query, prefix=query.prefix + query.continuation, continuation=())


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


def described(backend: Any, model: Any) -> str:
    """The ``repr`` of a backend: the class of its model, its type and device, and how it is run."""
    dtype = str(model.dtype).removeprefix("torch.")
    name, kind = type(backend).__name__, type(model).__name__
    return f"{name}({kind}, {dtype}, {backend.device}, {backend.strategy})"


def num_ids(model: Any) -> int:
    """Number of ids that a model takes and scores, from its embeddings and its configuration."""
    sizes = [getattr(model.config.get_text_config(decoder=True), "vocab_size", None)]
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        weights = getattr(embedding, "weight", None)
        # A quantized head may be stored in another shape.
        if weights is not None and weights.dim() == 2 and weights.is_floating_point():
            sizes.append(weights.shape[0])
    return min(int(size) for size in sizes if size)


def check_evaluating(model: Any) -> None:
    """Raise ``UsageError`` if any part of a model is in training mode."""
    name = next((name for name, part in model.named_modules() if part.training), None)
    if name is not None:
        part = f"The model's part {name}" if name else "The model"
        raise UsageError(
            f"{part} is in training mode, where dropout changes its answers. Call model.eval()."
        )


def check_weights(model: Any) -> None:
    """Raise ``NonFiniteError`` that names the first weights with NaN or infinity in them.

    Buffers may be infinite, as masks are.
    """
    parameters = dict(model.named_parameters())
    for name, weights in (*parameters.items(), *model.named_buffers()):
        if weights.is_meta or weights.element_size() < 2 or not weights.is_floating_point():
            continue
        with torch.inference_mode():
            # A sum is read once and makes no copy. It also overflows without such numbers, so
            # then they are counted.
            total = weights.sum(dtype=torch.float32)
            if bool(torch.isfinite(total)):
                continue
            bad = weights.isnan()
            if name in parameters:
                # A bias of minus infinity rules an id out.
                bad |= weights.isinf() if weights.dim() > 1 else weights.isposinf()
        if bool(bad.any()):
            raise NonFiniteError(
                f"The weights {name} hold {int(bad.sum()):,} numbers of {bad.numel():,} that are NaN "
                "or infinite, so the model says nothing. The checkpoint is damaged, or its dtype too "
                "narrow (float16 overflows where bfloat16 does not). Get the checkpoint again."
            )


def check_ids(ids: Sequence[int], size: int) -> None:
    """Raise ``SourceError`` unless all ids lie below ``size``."""
    if ids and (min(ids) < 0 or max(ids) >= size):
        raise SourceError(
            f"An id lies outside the model's vocabulary of {size} (ids {min(ids)} to {max(ids)}). "
            "The tokenizer does not belong to this model."
        )
