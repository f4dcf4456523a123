"""Numbers of recipes: every weight and parameter of every method, however large or odd."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from coolfusion.cli.merge import parse_size
from coolfusion.documents import json_text, shown
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.merging import METHODS, Inputs, Merge, MergeRecipe, Method, merge, open_recipe
from coolfusion.merging.formulas import elected_mean, linear
from coolfusion.merging.merge_recipe import recipe_dict
from coolfusion.merging.recipe_file import read_recipe, recipe_from
from coolfusion.merging.schedules import depths_of, value_at
from tests.checkpoints import llama_tensors, write_llama

NO_NUMBERS: list[Any] = [
    *(math.nan, math.inf, -math.inf, 10**400, -(10**400), True, False, None, "1", "nan", b"1"),
    *(1j, Decimal(1), Fraction(1, 2), [], {}, [[]], [1, None], [math.nan], {"*": math.inf}),
    *({"*": {}}, {"*": "x"}, {1: 1.0}, {"*": [1, True]}, [1, [2]], object(), {1}),
]
# TOML has a word for each of these.
IN_TOML = [
    *("nan", "inf", "-inf", "1e400", "1" + "0" * 400, "true", '"1"', "[]", "{}", "[nan]"),
    *("{'*' = inf}", "[1, true]", "1979-05-27", "12:00:00", "[[1]]", "1" + "0" * 5_000),
]


def recipes(method: str, weights: Any = None, **numbers: Any) -> dict[str, Any]:
    how = METHODS[method]
    said = {} if weights is None else {"weights": weights}
    base = {"base": "c"} if how.needs_base else {}
    return {"method": method, "models": ["a", "b"], **base, **said, **numbers}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_number_is_refused_for_every_weight_and_parameter(
    tmp_path: Path, method: str
) -> None:
    how = METHODS[method]
    base = "c" if how.needs_base else None
    for value in NO_NUMBERS:
        for name in how.parameters:
            with pytest.raises(UsageError):
                Merge(method, ("a", "b"), base, parameters={name: value})
        with pytest.raises(UsageError):
            Merge(method, ("a", "b"), base, weights=(value, 1.0))
    for text in IN_TOML:
        for name in [*how.parameters, "weights", "seed"]:
            written = f"[{text}, 1]" if name == "weights" else text
            file = tmp_path / "recipe.toml"
            lines = {"method": f'"{method}"', "models": '["a", "b"]', name: written}
            lines |= {"base": '"c"'} if base else {}
            file.write_text("\n".join(f"{key} = {value}" for key, value in lines.items()))
            with pytest.raises(UsageError) as caught:
                read_recipe(file)
            assert len(str(caught.value)) < 800


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "number", [1e308, -1e308, 1.7e308, 1e31, 1e30, -1e30, 5e-324, -5e-324, -0.0, 0]
)
def test_huge_and_tiny_numbers_give_a_merge_or_a_reason(
    tmp_path: Path, method: str, number: float
) -> None:
    paths = {name: str(write_llama(tmp_path / name, seed)) for seed, name in enumerate("abc")}
    how = METHODS[method]
    for key in [*how.parameters, *(["weights"] if how.weights else [])]:
        value = [number, number] if key == "weights" else number
        data = json.loads(json.dumps(recipes(method, **{key: value})))
        for name in ("models", "base"):
            if name in data:
                given = data[name]
                data[name] = paths[given] if name == "base" else [paths[each] for each in given]
        said = None
        try:
            merge(recipe_from(data), tmp_path / "out", overwrite=True)
        except UsageError as error:
            said = str(error)
        if said is None:
            json.loads((tmp_path / "out" / "merge.json").read_text())
        assert len(said or "") < 500


@pytest.mark.parametrize("size", [1e30, 1e300, 5e-324, 1e-300, 1.0, 3])
def test_an_average_depends_on_the_ratio_of_weights_alone(size: float) -> None:
    tensors = [torch.randn(50, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    for ratio in ((1, 1, 1), (1, 2, 4), (4, 0, 1)):
        weights = [size * each for each in ratio]
        assert torch.allclose(linear(tensors, weights), linear(tensors, ratio), rtol=1e-5)
        assert torch.allclose(
            elected_mean(tensors, weights), elected_mean(tensors, ratio), rtol=1e-4
        )


def test_scaling_changed_no_average() -> None:
    def before(tensors: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
        total = math.fsum(weights)
        result = (weights[0] / total) * tensors[0]
        for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
            result.add_(tensor, alpha=weight / total)
        return result

    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        tensors = [torch.randn(40, generator=generator) for _ in range(3)]
        weights = (10 * torch.rand(3, generator=generator, dtype=torch.float64)).tolist()
        assert torch.equal(linear(tensors, weights), before(tensors, weights))


@pytest.mark.parametrize(
    "weights",
    [
        (1, -1),
        (0, 0),
        (1.0, -1.0 + 1e-12),
        (0.1, -0.1),
        ([1, 0], [-1, 0]),
        (-0.0, 0.0),
        (1e30, -1e30),
    ],
)
def test_weights_that_cancel_have_no_average(tmp_path: Path, weights: Any) -> None:
    a, b = write_llama(tmp_path / "a", 1), write_llama(tmp_path / "b", 2)
    with pytest.raises(UsageError, match=r"sum to 0|cancel each other|belongs to no layer"):
        open_recipe(MergeRecipe(Merge("linear", (a, b), weights=weights)))


def test_negative_weights_with_an_average_are_an_extrapolation(tmp_path: Path) -> None:
    a, b = write_llama(tmp_path / "a", 1), write_llama(tmp_path / "b", 2)
    got = open_recipe(MergeRecipe(Merge("linear", (a, b), weights=(3, -1)))).read(
        "model.norm.weight"
    )
    one, other = (llama_tensors(seed)["model.norm.weight"] for seed in (1, 2))
    assert torch.allclose(got.float(), 1.5 * one - 0.5 * other)


def test_a_method_of_ones_own_may_average_with_weights_of_any_size(tmp_path: Path) -> None:
    def mean(given: Inputs) -> torch.Tensor:
        return linear(given.tensors, given.weights)

    how = Method("mean", mean, weights=METHODS["linear"].weights, averages=True)
    free = Method(
        "mean", mean, weights=type(how.weights)(1.0, math.isfinite, "finite"), averages=True
    )  # type: ignore[misc]
    a, b = write_llama(tmp_path / "a", 1), write_llama(tmp_path / "b", 2)
    huge = open_recipe(MergeRecipe(Merge(free, (a, b), weights=(1e308, 1e308))))
    even = open_recipe(MergeRecipe(Merge(how, (a, b))))
    assert torch.equal(huge.read("model.norm.weight"), even.read("model.norm.weight"))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=5))
def test_between_two_numbers_is_no_infinity(knots: list[float]) -> None:
    names = [f"model.layers.{layer}.w" for layer in range(7)]
    depths = depths_of(names)
    for name in names:
        assert min(knots) <= value_at(knots, name, depths) <= max(knots) or math.isclose(
            value_at(knots, name, depths), max(knots, key=abs), rel_tol=1e-9
        )


KINDS: list[Mapping[str, Any]] = [
    *({"method": value} for value in (None, 3, [], "best", {"linear": 1}, b"linear")),
    *({"models": value} for value in (None, 3, "ab", {}, [3], [None], [""], [b"a"], [["a"]], [()])),
    *({"weights": value} for value in (3, "11", {"a": 1}, np.ones(3), [1], [1, 1, 1])),
    *({"parameters": value} for value in (3, [], "t", {"t": 1}, {3: 1}, None)),
    *({"seed": value} for value in (-1, 2**64, 10**5_000, 1.0, True, "1", None, math.nan)),
    *({"base": value} for value in ("b", 3, "", [])),
]


@pytest.mark.parametrize("given", KINDS, ids=shown)
def test_values_of_other_types_are_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Merge(**{"method": "linear", "models": ("a", "b"), **given})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": 3},
        {"dtype": []},
        {"dtype": "int8"},
        {"ignore": "*"},
        {"ignore": [3]},
        {"merge": "a"},
    ],
    ids=str,
)
def test_values_of_other_types_around_a_merge_likewise(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        MergeRecipe(**{"merge": Merge("linear", ("a", "b")), **given})
    with pytest.raises(UsageError):
        recipe_from({"method": "linear", "models": ["a", "b"], **given})


def test_numbers_of_other_libraries_are_numbers(tmp_path: Path) -> None:
    weights = (np.float64(0.5), 2)
    written = json_text(recipe_dict(MergeRecipe(Merge("linear", ("a", "b"), weights=weights))))
    assert json.loads(written)["weights"] == [0.5, 2]


@pytest.mark.parametrize(
    "size", ["9" * 400 + "GB", "1e5GB", "-1GB", "nan", "inf", "", "0", "0.0kB", "٣GB"]
)
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(UsageError, match="write a size"):
        parse_size(size)


@pytest.mark.parametrize("size", [0, -1, 0.5, "5GB", None, math.inf])
def test_shards_that_hold_nothing(tmp_path: Path, size: Any) -> None:
    a = write_llama(tmp_path / "a", 1)
    with pytest.raises(CoolfusionError, match=r"holds nothing|must be a whole number"):
        merge(Merge("linear", (a,)), tmp_path / "out", max_shard_bytes=size)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "method models base weights seed t scale dtype ignore merge path on a".split()
                ),
                inner,
                max_size=5,
            )
        ),
    )
)
def test_any_data_is_a_recipe_or_a_usage_error(data: Any) -> None:
    try:
        recipe = recipe_from(data)
    except UsageError:
        return
    assume(recipe.merge.models)
    assert recipe_from(json.loads(json.dumps(recipe_dict(recipe)))) is not None
