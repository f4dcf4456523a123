"""Searches over points, as values: a search proposes, its caller evaluates, nothing else happens.

search = random_search(Grid({"scale": (0.5, 1.0)}), 2, seed=0)
while points := search.ask():
    search = search.tell([utility(point) for point in points])
search.best
"""

from __future__ import annotations

from coolfusion.search.enumeration import (
    Enumeration,
    grid_search,
    random_search,
    uniform_search,
)
from coolfusion.search.grid import Grid
from coolfusion.search.particle_swarm import Limits, ParticleSwarm
from coolfusion.search.seam import Evaluated, Point, Search, run
from coolfusion.search.start import corners, crossover, towards_another
from coolfusion.search.update import (
    PUBLISHED_GRID,
    Coefficients,
    next_velocities,
    step_length_at,
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
