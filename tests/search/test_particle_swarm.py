"""The optimiser: the published update by hand, laws of ask and tell, and functions with known optima."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.errors import UsageError
from coolfusion.search import (
    Coefficients,
    Enumeration,
    Evaluated,
    Grid,
    Limits,
    ParticleSwarm,
    Point,
    corners,
    crossover,
    next_velocities,
    random_search,
    run,
    step_length_at,
    towards_another,
    uniform_search,
)
from coolfusion.types import Floats

Function = Callable[[Point], float]


def sphere(x: Point) -> float:
    return sum(value**2 for value in x)


def rosenbrock(x: Point) -> float:
    return sum(100 * (b - a**2) ** 2 + (1 - a) ** 2 for a, b in pairwise(x))


def rastrigin(x: Point) -> float:
    return 10 * len(x) + sum(v**2 - 10 * math.cos(2 * math.pi * v) for v in x)


def lowest(function: Function, seed: int, *, dimensions: int = 4, **limits: int) -> float:
    """What a swarm of 20 random particles finds of a function's minimum, 0."""
    start = np.random.default_rng(seed).uniform(-4, 4, (20, dimensions))
    settings = Limits(**{"max_iterations": 60, "patience": 60, **limits})
    swarm = ParticleSwarm.start(start, seed=(seed,), limits=settings)
    last = run(swarm, lambda points: [-function(point) for point in points])
    assert last.best is not None
    assert last.best.utility == -function(last.best.point)
    return -last.best.utility


# The update equation.


def test_a_velocity_by_hand() -> None:
    """x 1, v 2, p 3, g 5, w -1; factors .5 1 .5 1 times coefficients .4 .3 .2 .1 sum to .7."""
    got = next_velocities(
        positions=np.array([[1.0]]),
        velocities=np.array([[2.0]]),
        personal_bests=np.array([[3.0]]),
        global_best=np.array([5.0]),
        global_worst=np.array([-1.0]),
        factors=np.array([[0.5, 1.0, 0.5, 1.0]]),
        coefficients=Coefficients(0.4, 0.3, 0.2, 0.1),
    )
    assert got[0, 0] == pytest.approx((0.2 * 2 + 0.3 * 2 + 0.1 * 4 - 0.1 * -2) / 0.7)
    assert got[0, 0] == pytest.approx(16 / 7)


def test_step_lengths_by_hand() -> None:
    coefficients = Coefficients(step_length=0.8, decay=0.5, floor=0.15)
    assert [step_length_at(k, coefficients) for k in (1, 2, 3, 4)] == [0.8, 0.4, 0.2, 0.15]


def by_hand(
    start: Floats, utility: Function, seed: tuple[int, ...], c: Coefficients, limits: Limits
) -> tuple[list[list[list[float]]], list[float]]:
    """The published algorithm once more, number by number: every position, and g's utilities."""
    count = len(start)
    x = [list(map(float, row)) for row in start]
    v = towards_another(start, *seed, 0).tolist()
    p, f_p, age = [row[:] for row in x], [-math.inf] * count, [0] * count
    g, f_g, w, f_w = x[0], -math.inf, x[0], math.inf
    trace, history = [], []
    for k in range(limits.max_iterations + 1):
        if k:
            r = (1 - np.random.default_rng([*seed, k]).random((count, 4))).tolist()
            step = max(c.step_length * c.decay ** (k - 1), c.floor)
            for i in range(count):
                if age[i] >= limits.restart:
                    x[i], v[i] = p[i][:], [0.0] * len(x[i])
                terms = [a * b for a, b in zip(r[i], c.phi, strict=True)]
                total = sum(terms)
                v[i] = [
                    (
                        terms[0] * vj
                        + terms[1] * (pj - xj)
                        + terms[2] * (gj - xj)
                        - terms[3] * (wj - xj)
                    )
                    / total
                    for xj, vj, pj, gj, wj in zip(x[i], v[i], p[i], g, w, strict=True)
                ]
                x[i] = [xj + step * vj for xj, vj in zip(x[i], v[i], strict=True)]
        trace.append([row[:] for row in x])
        for i in range(count):
            value = utility(tuple(x[i]))
            age[i] += 1
            if value > f_p[i]:
                p[i], f_p[i], age[i] = x[i][:], value, 0
            if value > f_g:
                g, f_g = x[i][:], value
            if value < f_w:
                w, f_w = x[i][:], value
        history.append(f_g)
        if len(history) > limits.patience and history[-1] == history[-1 - limits.patience]:
            break
    return trace, history


@pytest.mark.parametrize("seed", range(4))
def test_whole_searches_by_hand(seed: int) -> None:
    """Restarts, patience, decay and floor included."""
    start = np.random.default_rng(seed).normal(size=(5, 3))
    coefficients = Coefficients(0.3, 0.2, 0.5, 0.1, step_length=1.0, decay=0.7, floor=0.2)
    limits = Limits(max_iterations=30, patience=6, restart=2)
    swarm = ParticleSwarm.start(start, seed=(seed, 1), coefficients=coefficients, limits=limits)

    def utility(x: Point) -> float:
        return -rastrigin(x)

    trace, history = by_hand(start, utility, (seed, 1), coefficients, limits)
    for positions, best in zip(trace, history, strict=True):
        assert swarm.ask()
        np.testing.assert_allclose(np.array(swarm.ask()), positions, rtol=1e-9, atol=1e-9)
        swarm = swarm.tell([utility(point) for point in swarm.ask()])
        assert swarm.best is not None
        assert swarm.best.utility == pytest.approx(best)
    assert swarm.ask() == ()
    assert swarm.ended == ("iterations" if len(history) == 31 else "patience")


# Laws.


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(0, 10), st.sampled_from([1.0, 2.0]))
def test_crossover_lies_on_lines_through_two_experts(
    seed: int, num_experts: int, num_children: int, reach: float
) -> None:
    experts = corners(num_experts)
    start = crossover(experts, num_experts + num_children, seed=seed, reach=reach)
    assert start.shape == (num_experts + num_children, num_experts)
    assert np.array_equal(start[:num_experts], experts)
    for child in start[num_experts:]:
        assert child.sum() == pytest.approx(1)
        assert np.count_nonzero(child) <= 2
        assert child.min() > -1 if reach == 2 else child.min() >= 0
        assert child.max() <= reach
    headed = towards_another(start, seed)
    for position, velocity in zip(start, headed, strict=True):
        assert (
            any(np.array_equal(position + velocity, other) for other in start)
            or np.isclose(start, position + velocity).all(axis=1).any()
        )
    assert (np.abs(headed[:num_experts]).sum(axis=1) > 0).all()  # nobody is headed for itself


@given(st.integers(0, 1000), st.lists(st.floats(-10, 10), min_size=8, max_size=8))
def test_positions_stay_in_the_experts_plane_and_states_are_values(
    seed: int, told: list[float]
) -> None:
    """Shares sum to 1 whatever happens, and telling a state twice gives the same twice."""
    swarm = ParticleSwarm.start(crossover(corners(3), 8, seed=seed), seed=(seed,))
    before = swarm.positions.copy()
    for _ in range(6):
        assert np.array(swarm.ask()).sum(axis=1) == pytest.approx(1)
        once, twice = swarm.tell(told), swarm.tell(told)
        assert once.ask() == twice.ask()
        assert once.best == twice.best
        assert np.array_equal(once.velocities, twice.velocities)
        swarm, told = once, told[::-1]
    assert np.array_equal(before, crossover(corners(3), 8, seed=seed))


@given(st.permutations(range(6)))
def test_utilities_are_compared_and_nothing_else(order: list[int]) -> None:
    """Any utilities in the same order make the same search."""
    swarm = ParticleSwarm.start(crossover(corners(3), 6, seed=1), seed=(5,))
    assert swarm.tell(order).ask() == swarm.tell([math.exp(value) for value in order]).ask()


def test_ties_go_to_the_earlier_and_what_does_not_work_is_worst() -> None:
    swarm = ParticleSwarm.start(corners(3), seed=(0,))
    swarm = swarm.tell([-math.inf, 2.0, 2.0])
    assert swarm.best == Evaluated((0.0, 1.0, 0.0), 2.0)
    assert swarm.worst == Evaluated((1.0, 0.0, 0.0), -math.inf)
    last = swarm.tell([-math.inf, 2.0, -math.inf])
    assert last.best == swarm.best
    assert last.since_improved == 1
    nothing = ParticleSwarm.start(corners(2), seed=(0,)).tell([-math.inf, -math.inf])
    assert np.isfinite(nothing.positions).all()


def test_an_equal_utility_is_no_new_personal_best() -> None:
    """Else a particle on a plateau would never count as stagnant, and never start again."""
    swarm = ParticleSwarm.start(corners(3), seed=(1,), limits=Limits(restart=2))
    first = swarm.tell([1.0, 2.0, 3.0])
    second = first.tell([1.0, 2.0, 3.0])
    assert not np.array_equal(first.positions, corners(3))
    np.testing.assert_array_equal(second.personal_bests, corners(3))
    assert second.stagnant.tolist() == [1, 1, 1]
    third = second.tell([1.0, 2.5, 3.0])
    assert third.stagnant.tolist() == [2, 0, 2]
    assert third.restarted.tolist() == [True, False, True]
    np.testing.assert_array_equal(third.personal_bests[[0, 2]], corners(3)[[0, 2]])
    np.testing.assert_array_equal(third.personal_bests[1], second.positions[1])


def test_restarted_particles_come_from_their_best() -> None:
    """With steps of length 0 but for a share, a particle that was restarted has no momentum."""
    only_inertia = Coefficients(1.0, 0.0, 0.0, 0.0, step_length=1.0)
    swarm = ParticleSwarm.start(
        corners(2), seed=(3,), coefficients=only_inertia, limits=Limits(restart=2)
    )
    for utilities in ([5.0, 1.0], [4.0, 2.0], [3.0, 3.0]):
        assert not swarm.restarted.any()
        swarm = swarm.tell(utilities)
    assert swarm.restarted.tolist() == [True, False]
    assert np.array_equal(swarm.positions[0], corners(2)[0])
    assert not swarm.velocities[0].any()
    assert swarm.velocities[1].any()


def test_bounds_hold() -> None:
    swarm = ParticleSwarm.start(
        np.random.default_rng(0).uniform(0, 1, (6, 2)), seed=(0,), bounds=(0.0, 1.0)
    )
    seen: list[Point] = []

    def evaluate(points: tuple[Point, ...]) -> list[float]:
        seen.extend(points)
        return [point[0] + point[1] for point in points]

    assert run(swarm, evaluate).best is not None
    assert all(0 <= value <= 1 for point in seen for value in point)


# Functions whose minimum is known.


@pytest.mark.parametrize(
    ("function", "wanted"), [(sphere, 0.25), (rosenbrock, 20.0), (rastrigin, 9.0)]
)
def test_known_functions(function: Function, wanted: float) -> None:
    """In the median over seeds, nearer the minimum of 0 than random search of equal cost.

    The normalised update draws the swarm together, so it is no match for optimisers that can
    widen their search; these are the numbers that it reaches.
    """
    found = sorted(lowest(function, seed) for seed in range(9))
    drawn = []
    for seed in range(9):
        search = uniform_search((-4,) * 4, (4,) * 4, 20 * 61, seed=seed, batch_size=20)
        best = run(search, lambda points: [-function(point) for point in points]).best
        assert best is not None
        drawn.append(-best.utility)
    assert found[4] < wanted
    assert found[4] < 0.75 * sorted(drawn)[4]


# Mistakes and ends.


def wrong(call: Callable[[], object], message: str) -> tuple[Callable[[], object], str]:
    return call, message


SWARM = ParticleSwarm.start(corners(2), seed=(0,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        wrong(lambda: Coefficients(inertia=-1), "inertia is -1"),
        wrong(lambda: Coefficients(repel=math.nan), "repel is nan"),
        wrong(lambda: Coefficients(0, 0, 0, 0), "no particle would move"),
        wrong(lambda: Coefficients(step_length=0), "step length is 0"),
        wrong(lambda: Coefficients(decay=1.5), "decay is 1.5"),
        wrong(lambda: Coefficients(floor=0.9), "floor is 0.9"),
        wrong(lambda: Limits(patience=0), "patience is 0"),
        wrong(lambda: Limits(restart=0), "restart is 0"),
        wrong(lambda: Limits(max_iterations=-1), "max_iterations is -1"),
        wrong(lambda: Grid({}), "no values for anything"),
        wrong(lambda: Grid({"a": ()}), "no values for a"),
        wrong(lambda: Grid({"a": (1.0,)}).point(1), "no point 1"),
        wrong(lambda: Enumeration((), batch_size=0), "batch_size is 0"),
        wrong(lambda: random_search(Grid({"a": (1.0,)}), 2, seed=0), "2 points of a grid of 1"),
        wrong(lambda: random_search(Grid({"a": (1.0,)}), 1, seed=-3), "seed is -3"),
        wrong(lambda: uniform_search((1,), (0,), 2, seed=0), "is no box"),
        wrong(lambda: uniform_search((0,), (1,), 0, seed=0), "0 points"),
        wrong(lambda: crossover(corners(3), 2, seed=0), "2 particles cannot hold 3"),
        wrong(lambda: crossover(corners(1), 2, seed=0), "was given 1"),
        wrong(lambda: crossover(corners(2), 3, seed=0, reach=0), "reach of the crossover is 0"),
        wrong(lambda: ParticleSwarm.start(np.zeros((0, 2)), seed=(0,)), "cannot start"),
        wrong(lambda: ParticleSwarm.start(corners(2) * math.nan, seed=(0,)), "cannot start"),
        wrong(lambda: SWARM.tell([1.0]), "2 points to evaluate, but 1"),
        wrong(lambda: SWARM.tell([1.0, math.nan]), "is nan"),
        wrong(lambda: SWARM.tell([1.0, math.inf]), "is inf"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_a_search_that_is_over_stays_as_it_is() -> None:
    def flat(points: Sequence[Point]) -> list[float]:
        return [0.0 for _ in points]

    last = run(replace(SWARM, limits=Limits(patience=2)), flat)
    assert (last.ended, last.iteration) == ("patience", 2)
    assert last.tell([]) is last
    none = run(replace(SWARM, limits=Limits(max_iterations=0)), flat)
    assert (none.ended, none.iteration) == ("iterations", 0)
    listed = run(Enumeration(((1.0,),)), flat)
    assert listed.tell([]) is listed
