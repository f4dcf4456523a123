"""Proposals: the searches of ``coolfusion.search`` over a space of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coolfusion.config.options import FusionConfig
from coolfusion.errors import UsageError
from coolfusion.search import (
    Enumeration,
    Grid,
    Limits,
    ParticleSwarm,
    Point,
    corners,
    crossover,
    grid_search,
    random_search,
)
from coolfusion.tuning.space import WEIGHTS, Space, lattice

SEARCHES: Final = ("random", "grid", "swarm")
DEFAULT_TRIALS: Final = 20
GRID_WEIGHTS: Final = 10  # most points of weights in a grid search
RANDOM_WEIGHTS: Final = 1000  # most points of weights that a random search draws from
MAX_PARTICLES: Final = 10


@dataclass(frozen=True, slots=True)
class Proposals:
    """A search, the settings of its points, and the largest number of settings it proposes."""

    search: Enumeration | ParticleSwarm
    setting_at: Callable[[Point], FusionConfig]
    num_trials: int


def propose(space: Space, kind: str, num_trials: int | None, seed: int) -> Proposals:
    """The search called ``kind``, with at most ``num_trials`` (None: 20, or the whole grid).

    Raises ``UsageError`` for an unknown search, a space that does not fit it, and fewer trials
    than it needs.
    """
    if kind not in SEARCHES:
        raise UsageError(f'There is no search "{kind}". Choose one of {", ".join(SEARCHES)}.')
    if num_trials is not None and num_trials < 1:
        raise UsageError(f"The number of trials is {num_trials}; it must be at least 1.")
    if kind == "swarm":
        return _swarm(space, num_trials or DEFAULT_TRIALS, seed)
    weights = lattice(len(space.sources), GRID_WEIGHTS if kind == "grid" else RANDOM_WEIGHTS)
    axes: dict[str, tuple[float, ...]] = {
        knob: tuple(map(float, range(len(values)))) for knob, values in space.choices.items()
    }
    if space.varies_weights:
        axes[WEIGHTS] = tuple(map(float, range(len(weights))))
    grid = Grid(axes)

    def setting_at(point: Point) -> FusionConfig:
        places = {name: int(place) for name, place in grid.named(point).items()}
        chosen = {knob: values[places[knob]] for knob, values in space.choices.items()}
        return space.setting(chosen, weights[places[WEIGHTS]] if space.varies_weights else None)

    if kind == "random":
        count = min(num_trials or DEFAULT_TRIALS, len(grid))
        return Proposals(random_search(grid, count, seed=seed), setting_at, count)
    if num_trials is not None and num_trials < len(grid):
        raise UsageError(
            f"The grid has {len(grid)} points, more than the {num_trials} trials that were allowed. "
            "Vary fewer knobs, give them fewer values, or search at random."
        )
    return Proposals(grid_search(grid), setting_at, len(grid))


def _swarm(space: Space, num_trials: int, seed: int) -> Proposals:
    """Particles from every source alone and from mixtures of two (Token Swarms, arXiv 2410.11163)."""
    if not space.varies_weights or space.choices:
        raise UsageError("A swarm moves through weights and nothing else. Vary those alone.")
    num_sources = len(space.sources)
    if num_trials < num_sources:
        raise UsageError(
            f"A swarm starts from every source, and {num_trials} trials are fewer than "
            f"{num_sources} sources. Allow more."
        )
    num_particles = max(num_sources, min(MAX_PARTICLES, num_trials // 3))
    limits = Limits(max_iterations=num_trials // num_particles - 1)
    start = crossover(corners(num_sources), num_particles, seed=seed)
    swarm = ParticleSwarm.start(start, seed=(seed,), limits=limits, bounds=(0.0, 1.0))
    return Proposals(
        swarm,
        lambda point: space.setting({}, space.weights_at(point)),
        num_particles * (limits.max_iterations + 1),
    )
