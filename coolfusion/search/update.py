"""The update of Model Swarms (arXiv 2410.11163, section 2) as functions of arrays.

With position x, velocity v, personal best p, global best g and global worst w of a particle,
random factors r in (0, 1], coefficients phi and step length lambda:

    C = r_v phi_v + r_p phi_p + r_g phi_g + r_w phi_w
    v <- (r_v phi_v v + r_p phi_p (p - x) + r_g phi_g (g - x) - r_w phi_w (w - x)) / C
    x <- x + lambda v
    lambda <- max(decay lambda, floor)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coolfusion.errors import UsageError
from coolfusion.search.grid import Grid
from coolfusion.types import Floats

# The values that the paper's random search draws from: 1,350 combinations.
PUBLISHED_GRID = Grid(
    {
        "inertia": (0.1, 0.2, 0.3),
        "cognitive": (0.1, 0.2, 0.3, 0.4, 0.5),
        "social": (0.2, 0.3, 0.4, 0.5, 0.6),
        "repel": (0.01, 0.05, 0.1),
        "step_length": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    }
)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What draws a particle, and how far it goes.

    The first four are phi_v, phi_p, phi_g and phi_w; only their proportions matter. Defaults
    lie in the middle of the published grid. Raises ``UsageError`` for values that make no step.
    """

    inertia: float = 0.2
    cognitive: float = 0.3
    social: float = 0.4
    repel: float = 0.05
    step_length: float = 0.8
    decay: float = 0.95
    floor: float = 0.1

    def __post_init__(self) -> None:
        for name, value in zip(self.__slots__, self.phi, strict=False):
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value}; it must be 0 or above.")
        if not any(self.phi):
            raise UsageError(
                "inertia, cognitive, social and repel are all 0, so no particle would move. Set one."
            )
        if not 0 < self.step_length < math.inf:
            raise UsageError(f"The step length is {self.step_length}; it must be above 0.")
        if not 0 < self.decay <= 1:
            raise UsageError(
                f"The step length's decay is {self.decay}; it must be above 0 and at most 1."
            )
        if not 0 <= self.floor <= self.step_length:
            raise UsageError(
                f"The step length's floor is {self.floor}; it must lie between 0 and the step length, {self.step_length}."
            )

    @property
    def phi(self) -> tuple[float, float, float, float]:
        """Inertia, cognitive, social and repel coefficient."""
        return (self.inertia, self.cognitive, self.social, self.repel)


def next_velocities(
    *,
    positions: Floats,
    velocities: Floats,
    personal_bests: Floats,
    global_best: Floats,
    global_worst: Floats,
    factors: Floats,
    coefficients: Coefficients,
) -> Floats:
    """Velocities (N, d) after an update.

    ``positions``, ``velocities`` and ``personal_bests``: (N, d); ``global_best`` and
    ``global_worst``: (d,); ``factors``: (N, 4), r_v, r_p, r_g and r_w of each particle.
    """
    weighted = factors * np.array(coefficients.phi)
    # Added in a fixed order: a replayed search must get the same bits.
    total = weighted[:, 0] + weighted[:, 1] + weighted[:, 2] + weighted[:, 3]
    inertia, cognitive, social, repel = (weighted / total[:, None]).T[:, :, None]
    moved: Floats = (
        inertia * velocities
        + cognitive * (personal_bests - positions)
        + social * (global_best - positions)
        - repel * (global_worst - positions)
    )
    return moved


def step_length_at(iteration: int, coefficients: Coefficients) -> float:
    """lambda of an iteration, the first of which is 1."""
    decayed = coefficients.step_length * coefficients.decay ** (iteration - 1)
    return max(decayed, coefficients.floor)
