"""From logits to what the seam reports: log-probabilities, picks, watched totals."""

from __future__ import annotations

import torch

from coolfusion.backend import Sampling
from coolfusion.backends.token_tree import Pick
from coolfusion.errors import NonFiniteError


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities in float32, (positions, vocabulary).

    Raises ``NonFiniteError`` if any position has no proper distribution.
    """
    wide = logits.float()
    total = torch.logsumexp(wide, dim=-1, keepdim=True)
    if not bool(torch.isfinite(total).all()):
        raise NonFiniteError(
            "The model returned NaN or infinite logits. Its weights may be damaged, or its dtype "
            "too narrow for it (float16 overflows where bfloat16 does not)."
        )
    return wide - total


def picks(
    log_probs: torch.Tensor, sampling: Sampling, watch: tuple[int, ...], positions: list[int]
) -> list[Pick]:
    """One pick per row of ``log_probs`` (positions, vocabulary).

    ``positions`` are the indices, in the whole text, of the tokens being picked.
    """
    if sampling.is_greedy:
        tokens = log_probs.argmax(dim=-1)
    else:
        tokens = torch.stack(
            [
                _sample(row, sampling, position)
                for row, position in zip(log_probs, positions, strict=True)
            ]
        )
    own = log_probs.gather(1, tokens[:, None])[:, 0].clamp(max=0.0).tolist()
    if watch:
        total = torch.logsumexp(log_probs[:, list(watch)], dim=-1).clamp(max=0.0).tolist()
    else:
        total = [float("-inf")] * len(own)
    return [Pick(*triple) for triple in zip(tokens.tolist(), own, total, strict=True)]


def _sample(log_probs: torch.Tensor, sampling: Sampling, position: int) -> torch.Tensor:
    """Argmax of the tempered, filtered log-probabilities plus noise of (seed, position)."""
    tempered = torch.log_softmax(log_probs / sampling.temperature, dim=-1)
    ranked, order = tempered.sort(descending=True, stable=True)
    if sampling.top_k > 0:
        ranked, order = ranked[: sampling.top_k], order[: sampling.top_k]
    if sampling.top_p < 1.0:
        before = ranked.softmax(dim=-1).cumsum(dim=-1) - ranked.softmax(dim=-1)
        kept = int((before < sampling.top_p).sum())
        ranked, order = ranked[: max(1, kept)], order[: max(1, kept)]
    generator = torch.Generator().manual_seed(_mix(sampling.seed, position))
    noise = -torch.empty(len(log_probs)).exponential_(generator=generator).log()
    return order[(ranked + noise.to(ranked.device)[order]).argmax()]


def _mix(seed: int, position: int) -> int:
    """A 63-bit number in which seeds and positions do not collide by accident."""
    mixed = (seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    return (mixed ^ mixed >> 31) % 2**63
