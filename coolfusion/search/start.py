"""Where particles start, and where they are headed (arXiv 2410.11163, section 2)."""

from __future__ import annotations

import numpy as np

from coolfusion.errors import UsageError
from coolfusion.search.enumeration import generator
from coolfusion.types import Floats


def corners(count: int) -> Floats:
    """``count`` points (count, count), each all of one coordinate and nothing of the others."""
    return np.eye(count, dtype=np.float64)


def crossover(parents: Floats, num_particles: int, *, seed: int, reach: float = 1.0) -> Floats:
    """``num_particles`` positions (N, d): the parents (n, d), then t a + (1 - t) b of random pairs.

    t is uniform in (0, ``reach``). The paper says 1, so that children lie between their parents; its
    released code uses 2, and half of them lie beyond the first. Raises ``UsageError`` for
    fewer particles than parents, and for a single parent that should have children.
    """
    num_parents = len(parents)
    if num_particles < num_parents:
        raise UsageError(
            f"{num_particles} particles cannot hold {num_parents} experts; every expert starts as one. "
            f"Use at least {num_parents}."
        )
    if num_parents < 2:
        raise UsageError(
            f"A search between experts was given {num_parents}. Give at least 2; there is nothing between fewer."
        )
    if not 0 < reach < np.inf:
        raise UsageError(f"The reach of the crossover is {reach}; it must be above 0.")
    rng = generator(seed)
    num_children = num_particles - num_parents
    first = rng.integers(num_parents, size=num_children)
    second = _another(rng, first, num_parents)
    t = rng.uniform(0, reach, num_children)[:, None]
    children = t * parents[first] + (1 - t) * parents[second]
    return np.concatenate([parents, children]).astype(np.float64)


def towards_another(positions: Floats, *seed: int) -> Floats:
    """Velocities (N, d) from each position to that of a random other; 0 for one that is alone."""
    if len(positions) < 2:
        return np.zeros_like(positions)
    other = _another(generator(*seed), np.arange(len(positions)), len(positions))
    headed: Floats = positions[other] - positions
    return headed


def _another(rng: np.random.Generator, own: np.ndarray, count: int) -> np.ndarray:
    """For each number in ``own`` a random other one below ``count``."""
    drawn = rng.integers(count - 1, size=len(own))
    return np.asarray(drawn + (drawn >= own))
