"""Merge formulas: from the same tensor of several models to one tensor.

With models x[1] ... x[n], a base b, task vectors d[i] = x[i] - b and weights w[i]:

    linear             sum_i w[i] x[i] / sum_i w[i]                    (arXiv 2203.05482, section 2)
    slerp              on the arc from x[1] to x[2], a share t along    (SIGGRAPH 1985, Shoemake)
    task_arithmetic    b + scale sum_i w[i] d[i]                       (arXiv 2212.04089, section 2)
    ties               b + scale mean of the d[i] that agree in sign   (arXiv 2306.01708, section 4)
    dare               task_arithmetic of d[i] with random zeros       (arXiv 2311.03099, section 3)
    dare_ties          ties of d[i] with random zeros, nothing trimmed (the same)

Everything is computed tensor by tensor. Some papers measure or rank the whole model at once (the
arc of slerp, the trimming of ties). As usual, that is done for each tensor here. All tensors are
floats of one shape and type, and no input is changed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import torch

Tensors = Iterable[torch.Tensor]


def linear(tensors: Tensors, weights: Sequence[float]) -> torch.Tensor:
    """The weighted average. Weights are divided by their sum, which must not be 0."""
    near_one = _scaled(weights)
    total = math.fsum(near_one)
    return _weighted_sum(tensors, [weight / total for weight in near_one])


def slerp(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    """The point at a share ``t`` of the arc between two tensors, each seen as one vector.

    The angle is that between their directions; the vectors keep their own lengths. Without an
    arc (parallel, opposite or zero tensors) the point lies on the straight line.
    """
    lengths = [float(torch.linalg.vector_norm(x, dtype=torch.float64)) for x in (first, second)]
    if not all(lengths):
        return (1 - t) * first + t * second
    a, b = first / lengths[0], second / lengths[1]
    apart = float(torch.linalg.vector_norm(a - b, dtype=torch.float64))
    along = float(torch.linalg.vector_norm(a + b, dtype=torch.float64))
    angle = 2 * math.atan2(apart, along)  # accurate for small angles, where the cosine is not
    if math.sin(angle) < 1e-6:
        return (1 - t) * first + t * second
    shares = [math.sin(share * angle) / math.sin(angle) for share in (1 - t, t)]
    return shares[0] * first + shares[1] * second


def task_arithmetic(
    base: torch.Tensor, tensors: Tensors, weights: Sequence[float], *, scale: float
) -> torch.Tensor:
    """The base plus ``scale`` times the weighted sum of task vectors."""
    return base + scale * _weighted_sum((tensor - base for tensor in tensors), weights)


def trimmed(vector: torch.Tensor, density: float) -> torch.Tensor:
    """Set all entries to 0 but the share ``density`` of largest magnitude.

    At least one entry is kept, and so are entries equal to the smallest kept one.
    """
    if density >= 1 or vector.numel() == 0:
        return vector
    kept = max(1, int(density * vector.numel()))
    magnitudes = vector.abs()
    least = magnitudes.flatten().kthvalue(vector.numel() - kept + 1).values
    return vector.where(magnitudes >= least, 0)


def elected_mean(vectors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Entry by entry, the weighted mean of the vectors with the sign of the weighted sum.

    If the sum is 0, no sign is elected and the entry is 0.
    """
    weights = _scaled(weights)
    sign = _weighted_sum(vectors, weights).sign()
    total = torch.zeros_like(sign)
    mass = torch.zeros_like(sign)
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = ((vector.sign() == sign) & (sign != 0)).to(sign.dtype)
        total += weight * vector * agrees
        mass += weight * agrees
    return total / mass.where(mass > 0, 1)


def ties(
    base: torch.Tensor, tensors: Tensors, weights: Sequence[float], *, density: float, scale: float
) -> torch.Tensor:
    """Trim each task vector, elect a sign for each entry, and average the entries with that sign."""
    vectors = [trimmed(tensor - base, density) for tensor in tensors]
    return base + scale * elected_mean(vectors, weights)


def dropped(vector: torch.Tensor, drop: float, key: tuple[object, ...]) -> torch.Tensor:
    """Zero entries at random with probability ``drop`` and rescale the rest by 1 / (1 - drop).

    The pattern depends on ``key`` and the shape alone: not on the files of the tensors or the
    order in which they are read.
    """
    if drop == 0:
        return vector
    digest = hashlib.sha256(repr(key).encode("utf-8")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    stays = torch.rand(vector.shape, generator=generator, dtype=torch.float32) >= drop
    return vector * stays / (1 - drop)


def dare(
    base: torch.Tensor,
    tensors: Tensors,
    weights: Sequence[float],
    *,
    drop: float,
    scale: float,
    key: tuple[object, ...],
) -> torch.Tensor:
    """Task arithmetic of task vectors with random entries dropped and the rest rescaled."""
    return base + scale * _weighted_sum(_sparse(base, tensors, drop, key), weights)


def dare_ties(
    base: torch.Tensor,
    tensors: Tensors,
    weights: Sequence[float],
    *,
    drop: float,
    scale: float,
    key: tuple[object, ...],
) -> torch.Tensor:
    """As ``dare``, but with the mean of the entries that agree with the elected sign."""
    return base + scale * elected_mean(list(_sparse(base, tensors, drop, key)), weights)


def _weighted_sum(tensors: Tensors, weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum, with one tensor in memory beside it."""
    pairs = zip(tensors, weights, strict=True)
    tensor, weight = next(pairs)
    total = weight * tensor
    for tensor, weight in pairs:
        total.add_(tensor, alpha=weight)
    return total


def _scaled(weights: Sequence[float]) -> list[float]:
    """The weights times a power of 2, the largest from 1/2 to 1: no sum overflows or vanishes."""
    exponent = max((math.frexp(weight)[1] for weight in weights if weight), default=0)
    return [math.ldexp(weight, -exponent) for weight in weights]


def _sparse(
    base: torch.Tensor, tensors: Tensors, drop: float, key: tuple[object, ...]
) -> Iterator[torch.Tensor]:
    for number, tensor in enumerate(tensors):
        yield dropped(tensor - base, drop, (*key, number))
