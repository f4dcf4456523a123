"""Deciding what comes next from bounds, as soon as nothing unknown could change the decision.

Greedy and sampled choices are both the largest of a score that grows with the probability: the
logarithm itself, or its tempered value plus Gumbel noise that is a function of (seed, position).
An outcome whose score is larger at its lower bound than every other's at its upper bound is
what the exact distribution would have chosen.
"""

from __future__ import annotations

import numpy as np

from coolfusion.backends.sampling import Sampling, noise
from coolfusion.types import Floats


def decide(lower: Floats, upper: Floats, sampling: Sampling, position: int) -> int | None:
    """The outcome that ``pick`` would choose from any distribution between the bounds.

    ``lower`` and ``upper`` (outcomes,) are logarithms (nats) up to one constant. None: it depends
    on what is not known, or there is a tie.
    """
    if not sampling.is_greedy and (sampling.top_k or sampling.top_p < 1.0):
        return None  # which outcomes a filter keeps depends on all of them
    if not sampling.is_greedy:
        gumbel = noise(sampling, position, len(lower))
        lower = lower / sampling.temperature + gumbel
        upper = upper / sampling.temperature + gumbel
    best = int(lower.argmax())
    rivals = upper.copy()
    rivals[best] = -np.inf
    return best if lower[best] > rivals.max() else None
