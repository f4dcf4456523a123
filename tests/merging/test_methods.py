"""Every merge method against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from coolfusion.merging import METHODS, Inputs
from coolfusion.merging.formulas import (
    dare,
    dare_ties,
    dropped,
    elected_mean,
    linear,
    slerp,
    task_arithmetic,
    ties,
    trimmed,
)


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_linear_is_the_weighted_average() -> None:
    # (1 * [1, 2] + 3 * [5, -2]) / 4
    assert linear([vector(1, 2), vector(5, -2)], [1, 3]).tolist() == [4, -1]
    # A negative weight goes past the other model: (2 * [1, 2] - [5, -2]) / 1
    assert linear([vector(1, 2), vector(5, -2)], [2, -1]).tolist() == [-3, 6]


def test_slerp_halves_a_right_angle_and_carries_lengths() -> None:
    half = math.sqrt(0.5)
    assert slerp(vector(1, 0), vector(0, 1), 0.5).tolist() == pytest.approx([half, half])
    # sin(60 degrees) and sin(30 degrees) of unequal lengths, a third of the way
    assert slerp(vector(2, 0), vector(0, 3), 1 / 3).tolist() == pytest.approx(
        [2 * math.sin(math.radians(60)), 3 * math.sin(math.radians(30))]
    )


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ((1, 1), (3, 3), (1.5, 1.5)),  # parallel
        ((2, 0), (-2, 0), (1, 0)),  # opposite: no arc is the shortest
        ((0, 0), (4, 8), (1, 2)),  # no direction
    ],
)
def test_slerp_without_an_arc_is_the_straight_line(
    a: tuple[float, ...], b: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    assert slerp(vector(*a), vector(*b), 0.25).tolist() == pytest.approx(wanted)


def test_slerp_is_accurate_at_small_angles() -> None:
    """Fine-tuned weights are some thousandths of a radian apart."""
    angle, t = 1e-3, 0.3
    got = slerp(vector(1, 0), vector(math.cos(angle), math.sin(angle)), t)
    assert got.tolist() == pytest.approx([math.cos(t * angle), math.sin(t * angle)], rel=1e-12)


def test_task_arithmetic_adds_weighted_differences() -> None:
    base = vector(1, 1)
    # task vectors [2, 0] and [-1, 4]; 1 + 0.5 * (2 * 2 - 1), 1 + 0.5 * (0 + 4)
    got = task_arithmetic(base, [vector(3, 1), vector(0, 5)], [2, 1], scale=0.5)
    assert got.tolist() == [2.5, 3]
    assert base.tolist() == [1, 1]


def test_trimming_keeps_the_share_of_largest_magnitude() -> None:
    values = vector(0.1, -5, 2, -0.3, 1)
    assert trimmed(values, 0.4).tolist() == [0, -5, 2, 0, 0]
    assert trimmed(values, 0.01).tolist() == [0, -5, 0, 0, 0]
    assert trimmed(values, 1).tolist() == values.tolist()
    assert trimmed(vector(1, -1, 1, 0.5), 0.25).tolist() == [1, -1, 1, 0]  # equals stay
    assert trimmed(vector(), 0.5).tolist() == []


def test_election_by_mass_and_mean_of_those_that_agree() -> None:
    vectors = [vector(3, 3, 1, 0, 2), vector(-1, 1, -1, 0, 0), vector(-1, -9, 0, 0, 4)]
    # sums 1, -5, 0, 0, 6: plus, minus, nobody, nobody, plus
    assert elected_mean(vectors, [1, 1, 1]).tolist() == [3, -9, 0, 0, 3]
    # weights 1, 4, 1: sums -2, -2, -3, 0, 6; means (4 * -1 + -1) / 5, -9, -1, 0, (2 + 4) / 2
    assert elected_mean(vectors, [1, 4, 1]).tolist() == [-1, -9, -1, 0, 3]


def test_ties_trims_elects_and_averages() -> None:
    base = vector(1, 1, 1, 1)
    # task vectors [4, 3, .1, .2] and [2, -5, .3, .1], half of each kept: [4, 3, 0, 0], [2, -5, 0, 0]
    models = [vector(5, 4, 1.1, 1.2), vector(3, -4, 1.3, 1.1)]
    # signs + and -: means 3 and -5, doubled
    assert ties(base, models, [1, 1], density=0.5, scale=2).tolist() == [7, -9, 1, 1]


def test_dare_drops_and_rescales() -> None:
    base, key = vector(*[1.0] * 8), (7, "name")
    delta = vector(1, 2, 3, 4, 5, 6, 7, 8)
    left = dropped(delta, 0.75, (*key, 0))
    stays = left != 0
    assert 0 < int(stays.sum()) < 8
    assert left[stays].tolist() == (4 * delta[stays]).tolist()
    got = dare(base, [base + delta], [2], drop=0.75, scale=0.5, key=key)
    assert got.tolist() == (base + 0.5 * 2 * left).tolist()


def test_dare_ties_elects_among_what_is_left() -> None:
    base, key = vector(*[0.0] * 6), ("any",)
    models = [vector(1, 1, 1, 1, 1, 1), vector(-3, -3, -3, -3, -3, -3)]
    left = [dropped(model, 0.5, (*key, number)) for number, model in enumerate(models)]
    wanted = [
        -6.0 if b else 2.0 if a else 0.0  # the heavier, if it is there
        for a, b in zip(left[0].tolist(), left[1].tolist(), strict=True)
    ]
    assert dare_ties(base, models, [1, 1], drop=0.5, scale=1, key=key).tolist() == wanted
    assert len(set(wanted)) > 1


def test_inputs_are_left_as_they_were() -> None:
    for method in METHODS.values():
        base, a, b = vector(0, 1, 2), vector(1, 5, -2), vector(3, -1, 0)
        models = [a, b][: method.num_models or 2]
        defaults = {name: parameter.default for name, parameter in method.parameters.items()}
        method.merge(Inputs("mlp", iter(models), [2.0, 3.0], defaults, 0, base))
        assert (base.tolist(), a.tolist(), b.tolist()) == ([0, 1, 2], [1, 5, -2], [3, -1, 0])
