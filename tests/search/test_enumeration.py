"""Grids, random and uniform points: what a search asks for when it knows all from the start."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.search import (
    PUBLISHED_GRID,
    Coefficients,
    Evaluated,
    Grid,
    grid_search,
    random_search,
    run,
    uniform_search,
)


def test_a_grid_in_order() -> None:
    grid = Grid({"a": (1.0, 2.0), "b": (3.0, 4.0, 5.0)})
    assert len(grid) == 6
    assert [grid.point(k) for k in range(6)] == [
        *((1.0, 3.0), (1.0, 4.0), (1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (2.0, 5.0))
    ]
    assert grid.named((1.0, 5.0)) == {"a": 1.0, "b": 5.0}
    search = run(grid_search(grid, batch_size=4), lambda points: [a * b for a, b in points])
    assert search.best == Evaluated((2.0, 5.0), 10.0)
    assert search.num_told == 6
    assert len(PUBLISHED_GRID) == 1350
    for point in (PUBLISHED_GRID.point(0), PUBLISHED_GRID.point(1349)):
        Coefficients(**PUBLISHED_GRID.named(point))


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_random_search_repeats_nothing(seed: int, count: int) -> None:
    grid = Grid({"a": (1.0, 2.0, 3.0, 4.0), "b": (3.0, 4.0, 5.0)})
    points = random_search(grid, count, seed=seed).points
    assert len(set(points)) == count
    assert random_search(grid, count, seed=seed).points == points


def test_uniform_points_lie_in_their_box() -> None:
    points = np.array(uniform_search((0, -2), (1, -1), 200, seed=1).points)
    assert points.shape == (200, 2)
    assert (points.min(axis=0) >= (0, -2)).all()
    assert (points.max(axis=0) <= (1, -1)).all()
    assert points.mean(axis=0) == pytest.approx((0.5, -1.5), abs=0.1)
