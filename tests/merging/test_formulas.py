"""Laws of the merge methods, whatever the tensors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from coolfusion.merging import METHODS, Inputs, Merge, MergeRecipe, merge
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
from tests.checkpoints import tensors_of, write_llama

NUMBERS = st.floats(-8, 8, allow_nan=False, width=32)
SIZE = 6
VECTORS = st.lists(NUMBERS, min_size=SIZE, max_size=SIZE).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float64)
)
WEIGHTS = st.floats(0.0625, 4)
MODELS = st.lists(st.tuples(VECTORS, WEIGHTS), min_size=1, max_size=4)
SHARES = st.floats(0, 1)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def apart(models: list[tuple[torch.Tensor, float]]) -> tuple[list[torch.Tensor], list[float]]:
    return [vector for vector, _ in models], [weight for _, weight in models]


@given(MODELS, st.data())
def test_linear_with_all_weight_on_one_model_is_that_model(
    models: list[tuple[torch.Tensor, float]], data: st.DataObject
) -> None:
    vectors, _ = apart(models)
    chosen = data.draw(st.integers(0, len(vectors) - 1))
    weights = [float(number == chosen) for number in range(len(vectors))]
    assert torch.equal(linear(vectors, weights), vectors[chosen])


@given(VECTORS, MODELS, st.permutations(range(4)))
def test_the_order_of_models_does_not_matter(
    base: torch.Tensor, models: list[tuple[torch.Tensor, float]], order: list[int]
) -> None:
    vectors, weights = apart(models)
    order = [number for number in order if number < len(models)]
    moved = [vectors[number] for number in order], [weights[number] for number in order]
    assert close(linear(vectors, weights), linear(*moved))
    assert close(
        task_arithmetic(base, vectors, weights, scale=0.7),
        task_arithmetic(base, *moved, scale=0.7),
    )
    # An elected sign hangs on the last bit of a sum where the sum is next to nothing.
    trims = [trimmed(vector - base, 0.5) for vector in vectors]
    sums = sum(weight * vector for weight, vector in zip(weights, trims, strict=True))
    assume(bool(((sums.abs() > 1e-6) | (sums == 0)).all()))
    assume(all(bool(((t.abs() > 1e-6) | (t == 0)).all()) for t in trims))
    assert close(
        ties(base, vectors, weights, density=0.5, scale=1), ties(base, *moved, density=0.5, scale=1)
    )


@given(VECTORS, st.integers(0, 99))
@pytest.mark.parametrize("name", METHODS)
def test_merging_a_model_with_itself_changes_nothing(
    name: str, vector: torch.Tensor, seed: int
) -> None:
    method = METHODS[name]
    number = method.num_models or 3
    merged = method.merge(
        Inputs(
            "layers.0.mlp.weight",
            (vector.clone() for _ in range(number)),
            [0.25] * number if method.weights else [],
            {key: parameter.default for key, parameter in method.parameters.items()},
            seed,
            vector if method.needs_base else None,
        )
    )
    assert close(merged, vector)


@given(VECTORS, VECTORS, SHARES)
def test_slerp_ends_at_its_ends_and_stays_on_the_sphere(
    a: torch.Tensor, b: torch.Tensor, t: float
) -> None:
    assert close(slerp(a, b, 0), a)
    assert close(slerp(a, b, 1), b)
    assert close(slerp(a, b, t), slerp(b, a, 1 - t))
    assume(min(a.norm(), b.norm()) > 1e-3)
    a, b = a / a.norm(), b / b.norm()
    assume((a + b).norm() > 1e-3)  # from pole to pole there are many arcs
    middle = slerp(a, b, t)
    assert math.isclose(middle.norm(), 1, rel_tol=1e-9)
    whole = 2 * math.atan2((a - b).norm(), (a + b).norm())
    part = 2 * math.atan2((a - middle).norm(), (a + middle).norm())
    assert math.isclose(part, t * whole, rel_tol=1e-5, abs_tol=1e-6)


@given(VECTORS, MODELS, st.integers(0, 99))
def test_nothing_added_is_the_base(
    base: torch.Tensor, models: list[tuple[torch.Tensor, float]], seed: int
) -> None:
    vectors, weights = apart(models)
    key = (seed, "name")
    assert torch.equal(task_arithmetic(base, vectors, weights, scale=0), base)
    assert torch.equal(ties(base, vectors, weights, density=0.3, scale=0), base)
    assert torch.equal(dare(base, vectors, weights, drop=0.3, scale=0, key=key), base)
    assert torch.equal(dare_ties(base, vectors, weights, drop=0.3, scale=0, key=key), base)


@given(VECTORS, MODELS)
def test_task_vectors_that_sum_to_one_are_an_average(
    base: torch.Tensor, models: list[tuple[torch.Tensor, float]]
) -> None:
    vectors, weights = apart(models)
    shares = [weight / sum(weights) for weight in weights]
    assert close(task_arithmetic(base, vectors, shares, scale=1), linear(vectors, weights))


@given(VECTORS, MODELS)
def test_ties_without_trimming_or_quarrel_is_the_mean_of_task_vectors(
    base: torch.Tensor, models: list[tuple[torch.Tensor, float]]
) -> None:
    deltas, weights = apart(models)
    signs = torch.tensor([1.0, -1.0] * (SIZE // 2), dtype=torch.float64)
    agreeing = [base + (delta.abs() + 0.25) * signs for delta in deltas]
    merged = ties(base, agreeing, weights, density=1, scale=1)
    assert close(merged - base, linear([vector - base for vector in agreeing], weights))


@given(MODELS)
def test_an_elected_mean_lies_among_those_it_averages(
    models: list[tuple[torch.Tensor, float]],
) -> None:
    vectors, weights = apart(models)
    mean = elected_mean(vectors, weights)
    stacked = torch.stack(vectors)
    assert bool((mean <= stacked.amax(0).clamp(min=0) + 1e-9).all())
    assert bool((mean >= stacked.amin(0).clamp(max=0) - 1e-9).all())


@given(VECTORS, st.floats(0.01, 1))
def test_trimming_keeps_the_largest(vector: torch.Tensor, density: float) -> None:
    kept = trimmed(vector, density)
    wanted = max(1, int(density * SIZE))
    assert bool(((kept == vector) | (kept == 0)).all())
    lost = vector[(kept == 0) & (vector != 0)]
    assert len(lost) <= SIZE - wanted
    if len(lost):
        assert kept[kept != 0].abs().min() > lost.abs().max()


@given(VECTORS, MODELS, st.integers(0, 99))
def test_dare_that_drops_nothing_is_task_arithmetic(
    base: torch.Tensor, models: list[tuple[torch.Tensor, float]], seed: int
) -> None:
    vectors, weights = apart(models)
    kept = dare(base, vectors, weights, drop=0, scale=0.5, key=(seed,))
    assert torch.equal(kept, task_arithmetic(base, vectors, weights, scale=0.5))
    kept = dare_ties(base, vectors, weights, drop=0, scale=0.5, key=(seed,))
    assert torch.equal(kept, ties(base, vectors, weights, density=1, scale=0.5))


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_dropping_keeps_the_expectation(drop: float) -> None:
    count = 20_000
    vector = torch.full((count,), 2.0, dtype=torch.float64)
    left = dropped(vector, drop, (3, "name", 0))
    assert torch.equal(left[left != 0], vector[left != 0] / (1 - drop))
    deviation = 2 * math.sqrt(drop / (1 - drop) / count)
    assert abs(float(left.mean()) - 2) < 5 * deviation
    assert torch.equal(left, dropped(vector, drop, (3, "name", 0)))
    for other in ((4, "name", 0), (3, "names", 0), (3, "name", 1)):
        assert not torch.equal(left, dropped(vector, drop, other))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("four")
    return [str(write_llama(root / name, seed)) for seed, name in enumerate("abcd")]


@pytest.mark.parametrize("outer", [name for name in METHODS if name != "slerp"])
@pytest.mark.parametrize("inner", ["linear", "dare"])
def test_a_merge_of_merges_is_two_merges(
    outer: str, inner: str, four: list[str], tmp_path: Path
) -> None:
    base, *experts = four
    inside = Merge(inner, tuple(experts[:2]), base if inner == "dare" else None, seed=5)
    # The type that merges are computed in: storing what lies in between rounds nothing.
    merge(MergeRecipe(inside, dtype="float64"), tmp_path / "inside")

    def around(inside: Merge | str) -> Merge:
        return Merge(outer, (inside, experts[2]), base if METHODS[outer].needs_base else None)

    merge(MergeRecipe(around(inside), dtype="float32"), tmp_path / "at-once")
    merge(MergeRecipe(around(str(tmp_path / "inside")), dtype="float32"), tmp_path / "in-two")
    at_once, in_two = tensors_of(tmp_path / "at-once"), tensors_of(tmp_path / "in-two")
    assert list(at_once) == list(in_two)
    assert all(torch.equal(at_once[name], in_two[name]) for name in at_once)
