"""From logits to answers: log-probabilities, picks, watched totals and distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.sampling import Sampling
from coolfusion.errors import NonFiniteError


@dataclass(frozen=True, slots=True)
class Lines:
    """The logits (positions, vocabulary) that answer a query, before they are read."""

    logits: torch.Tensor
    num_forwarded: int = 0
    num_passes: int = 0


Answer = TypeVar("Answer", bound=Scores | Distributions | Lines)
Read = Callable[[torch.Tensor, Sequence[Query]], list[Answer]]


def read_scores(logits: torch.Tensor, queries: Sequence[Query]) -> list[Scores]:
    """The answers to ``queries``, without their costs.

    ``logits`` (positions, vocabulary) are those of the first query, then of the second, and so
    on. Each query has those after its prefix and after each continuation token. Raises
    ``NonFiniteError`` if any position has no proper distribution.
    """
    logits = logits.float()
    tokens, own = _picks(logits, queries)
    spelled = [token for query in queries for token in (*query.continuation, 0)]
    totals: list[float] = torch.logsumexp(logits, dim=-1).tolist()
    picked: list[int] = tokens.tolist()
    pick_log_probs = _less(own.tolist(), totals)
    watched = _less(_watched(logits, queries).tolist(), totals)
    if any(math.isnan(value) for value in pick_log_probs):
        raise _not_finite()
    if len(spelled) == len(queries):
        log_probs = totals  # there is no continuation, hence nothing to read here
    else:
        lines = torch.tensor(spelled, device=logits.device)[:, None]
        log_probs = _less(logits.gather(1, lines)[:, 0].tolist(), totals)
    answers = []
    start = 0
    for query in queries:
        end = start + len(query.continuation) + 1
        answers.append(
            Scores(
                tuple(log_probs[start : end - 1]),
                tuple(picked[start:end]),
                tuple(pick_log_probs[start:end]),
                tuple(watched[start:end]),
            )
        )
        start = end
    return answers


def _less(logits: list[float], totals: list[float]) -> list[float]:
    """Log-probabilities: ``logits`` minus ``totals``, the log-sum-exps of their positions."""
    return [min(value - total, 0.0) for value, total in zip(logits, totals, strict=True)]


def read_distributions(logits: torch.Tensor, queries: Sequence[Query]) -> list[Distributions]:
    """The same positions as whole distributions; double precision keeps their order.

    Raises ``NonFiniteError`` for NaN.
    """
    lines = torch.log_softmax(logits.double(), dim=-1)
    if bool(lines.isnan().any()):
        raise _not_finite()
    lengths = [len(query.continuation) + 1 for query in queries]
    return [Distributions(part.cpu().numpy()) for part in lines.split(lengths)]


def read_lines(logits: torch.Tensor, queries: Sequence[Query]) -> list[Lines]:
    """The same positions as they are, dealt to their queries."""
    lengths = [len(query.continuation) + 1 for query in queries]
    return [Lines(part) for part in logits.split(lengths)]


def tokens_only(read: Read[Answer], size: int, unused: torch.Tensor) -> Read[Answer]:
    """``read`` for the first ``size`` ids without those that are ``unused``.

    Their logits are taken away before the softmax. So they have probability 0, and the
    probabilities of all others are what they are given that a token comes.
    """

    def read_tokens(logits: torch.Tensor, queries: Sequence[Query]) -> list[Answer]:
        logits = logits[:, :size]
        if len(unused):
            logits = logits.index_fill(1, unused, float("-inf"))
        return read(logits, queries)

    return read_tokens


def charged(answer: Answer, num_forwarded: int, num_passes: int) -> Answer:
    """The same answer with its cost."""
    return replace(answer, num_forwarded=num_forwarded, num_passes=num_passes)


def _not_finite() -> NonFiniteError:
    return NonFiniteError(
        "The model returned NaN or infinite logits. Its weights may be damaged, or its dtype "
        "too narrow for it (float16 overflows where bfloat16 does not)."
    )


def _picks(logits: torch.Tensor, queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
    """The picked ids (positions,) and their logits."""
    own, tokens = logits.max(dim=-1)
    if all(query.sampling.is_greedy for query in queries):
        return tokens, own
    line = 0
    for query in queries:
        for position in range(len(query.prefix), len(query.prefix) + len(query.continuation) + 1):
            if not query.sampling.is_greedy:
                tokens[line] = _sample(logits[line], query.sampling, position)
            line += 1
    return tokens, logits.gather(1, tokens[:, None])[:, 0]


def _watched(logits: torch.Tensor, queries: Sequence[Query]) -> torch.Tensor:
    """(positions,) log-sum-exp of the logits of the watched ids."""
    kinds = {query.watch for query in queries}
    if len(kinds) == 1:
        return _log_sum(logits, next(iter(kinds)))
    parts = []
    start = 0
    for query in queries:
        end = start + len(query.continuation) + 1
        parts.append(_log_sum(logits[start:end], query.watch))
        start = end
    return torch.cat(parts)


def _log_sum(logits: torch.Tensor, watch: tuple[int, ...]) -> torch.Tensor:
    if not watch:
        return torch.full_like(logits[:, 0], float("-inf"))
    if len(watch) == 1:
        return logits[:, watch[0]]
    return torch.logsumexp(logits[:, list(watch)], dim=-1)


def _sample(logits: torch.Tensor, sampling: Sampling, position: int) -> torch.Tensor:
    """Argmax of the tempered, filtered log-probabilities plus noise of (seed, position)."""
    tempered = torch.log_softmax(torch.log_softmax(logits, dim=-1) / sampling.temperature, dim=-1)
    ranked, order = tempered.sort(descending=True, stable=True)
    if sampling.top_k > 0:
        ranked, order = ranked[: sampling.top_k], order[: sampling.top_k]
    if sampling.top_p < 1.0:
        before = ranked.softmax(dim=-1).cumsum(dim=-1) - ranked.softmax(dim=-1)
        kept = int((before < sampling.top_p).sum())
        ranked, order = ranked[: max(1, kept)], order[: max(1, kept)]
    generator = torch.Generator().manual_seed(_mix(sampling.seed, position))
    noise = -torch.empty(len(logits)).exponential_(generator=generator).log()
    return order[(ranked + noise.to(ranked.device)[order]).argmax()]


def _mix(seed: int, position: int) -> int:
    """A 63-bit number in which seeds and positions do not collide by accident."""
    mixed = (seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    return (mixed ^ mixed >> 31) % 2**63
