"""Searches over points, as values: a search proposes points and its caller evaluates them.

search = random_search(Grid({"scale": (0.5, 1.0)}), 2, seed=0)
while points := search.ask():
    search = search.tell([utility(point) for point in points])
search.best
"""

from __future__ import annotations

from coolfusion.search.enumeration import (
    Enumeration,
    Evaluated,
    Grid,
    Point,
    Search,
    grid_search,
    random_search,
    run,
    uniform_search,
)
from coolfusion.search.particle_swarm import (
    PUBLISHED_GRID,
    Coefficients,
    Limits,
    ParticleSwarm,
    corners,
    crossover,
    next_velocities,
    step_length_at,
    towards_another,
)

__all__ = [
    "PUBLISHED_GRID",
    "Coefficients",
    "Enumeration",
    "Evaluated",
    "Grid",
    "Limits",
    "ParticleSwarm",
    "Point",
    "Search",
    "corners",
    "crossover",
    "grid_search",
    "next_velocities",
    "random_search",
    "run",
    "step_length_at",
    "towards_another",
    "uniform_search",
]
