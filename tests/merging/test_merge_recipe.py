"""Recipes and schedules: what a file says, and what is refused in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coolfusion.errors import UsageError
from coolfusion.merging import (
    METHODS,
    Adapter,
    Merge,
    MergeRecipe,
    Method,
    open_recipe,
    read_recipe,
)
from coolfusion.merging.merge_recipe import recipe_dict
from coolfusion.merging.recipe_file import recipe_from
from coolfusion.merging.schedules import Schedule, depths_of, numbers_in, value_at
from tests.checkpoints import llama_tensors, write_checkpoint, write_llama

LAYERS = [f"model.layers.{layer}.mlp.up.weight" for layer in range(5)]
NAMES = [*LAYERS, "model.norm.weight", "vision.blocks.0.w", "vision.blocks.1.w"]


def test_depth_counts_layers_of_each_stack() -> None:
    assert depths_of(NAMES) == {
        **{name: layer / 4 for layer, name in enumerate(LAYERS)},
        "vision.blocks.0.w": 0.0,
        "vision.blocks.1.w": 1.0,
    }
    assert depths_of(["model.layers.0.w"]) == {"model.layers.0.w": 0.0}


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (0.5, [0.5] * 5),
        ([0, 1], [0, 0.25, 0.5, 0.75, 1]),
        ([0, 1, 0], [0, 0.5, 1, 0.5, 0]),
        ([3], [3] * 5),
        ({"*.3.*": 9, "*.layers.*": [0, 2], "*": 0}, [0, 0.5, 1, 9, 2]),
    ],
)
def test_schedules_run_from_the_first_layer_to_the_last(
    schedule: Schedule, wanted: list[float]
) -> None:
    depths = depths_of(NAMES)
    assert [value_at(schedule, name, depths) for name in LAYERS] == wanted


def test_schedules_without_a_number_for_a_tensor_say_so() -> None:
    depths = depths_of(NAMES)
    with pytest.raises(UsageError, match=r'"model.norm.weight" belongs to no layer'):
        value_at([0, 1], "model.norm.weight", depths)
    with pytest.raises(UsageError, match=r'No pattern .* matches tensor "model.norm.weight"'):
        value_at({"*.layers.*": 1}, "model.norm.weight", depths)
    for wrong in ("a", [], {}, {"*": "a"}, [1, None], float("nan"), True):
        with pytest.raises(UsageError):
            list(numbers_in(wrong))  # type: ignore[arg-type]


def test_weights_by_layer_are_what_a_merge_uses(tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(t) for name, t in llama_tensors(1).items()}
    ones = {name: torch.ones_like(t) for name, t in zeros.items()}
    a, b = write_checkpoint(tmp_path / "a", zeros), write_checkpoint(tmp_path / "b", ones)
    weights = ({"*.layers.*": [1, 0], "*": 3}, {"*.layers.*": [0, 1], "*": 1})
    checkpoint = open_recipe(MergeRecipe(Merge("linear", (a, b), weights=weights)))
    got = {name: checkpoint.read(name).flatten()[0].item() for name in checkpoint.about.infos}
    for name, value in got.items():
        layer = name.split(".")[2] if ".layers." in name else None
        assert value == {"0": 0, "1": 0.5, "2": 1, None: 0.25}[layer], name


NESTED = """
method = "ties"
base = "base"
models = ["maths", { path = "lora", on = "base" }, { method = "linear", models = ["c"] }]
weights = [1.0, { "*.mlp.*" = 0.2, "*" = [0.5, 1] }, 2]
density = 0.3
seed = 3
dtype = "bfloat16"
ignore = ["*.inv_freq"]

[merge.maths]
method = "slerp"
models = ["a", "org/b"]
t = [0, 1]
"""


def test_a_file_with_merges_of_merges(tmp_path: Path) -> None:
    for name in ("a", "base", "lora", "c"):
        (tmp_path / name).mkdir()
    file = tmp_path / "recipe.toml"
    file.write_text(NESTED)
    here = {name: str(tmp_path / name) for name in ("a", "base", "lora", "c")}
    recipe = read_recipe(file)
    assert recipe == MergeRecipe(
        Merge(
            "ties",
            (
                Merge("slerp", (here["a"], "org/b"), parameters={"t": [0, 1]}),
                Adapter(here["lora"], here["base"]),
                Merge("linear", (here["c"],)),
            ),
            here["base"],
            (1.0, {"*.mlp.*": 0.2, "*": [0.5, 1]}, 2),
            {"density": 0.3},
            3,
        ),
        "bfloat16",
        ("*.inv_freq",),
    )
    # What goes into the provenance file is the same recipe, defaults spelt out.
    written = json.loads(json.dumps(recipe_dict(recipe)))
    again = recipe_from(written)
    assert recipe_dict(again) == written
    assert written["scale"] == 1.0
    provenance = tmp_path / "merge.json"
    provenance.write_text(json.dumps({"recipe": written}))
    assert recipe_dict(read_recipe(provenance)) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ", "Cannot read the recipe"),
        ('models = ["a"]', "method is None"),
        ('method = "best"', "method is 'best'"),
        ('method = "linear"', "models of linear is None"),
        ('method = "linear"\nmodels = []', "no models"),
        ('method = "linear"\nmodels = ["a"]\nt = 1', "linear has no key t. It knows: base"),
        ('method = "linear"\nmodels = [3]', "3 is no model"),
        ('method = "linear"\nmodels = ["a"]\nweights = 1', "weights of linear is 1"),
        ('method = "linear"\nmodels = ["a"]\nweights = [1, 2]', "1 models were given 2 weights"),
        ('method = "linear"\nmodels = ["a"]\nweights = ["x"]', "must be a number"),
        ('method = "linear"\nmodels = ["a"]\nseed = 0.5', "seed is 0.5"),
        ('method = "linear"\nmodels = ["a"]\nseed = -1', "seed is -1"),
        ('method = "linear"\nmodels = ["a"]\ndtype = "int8"', 'no dtype "int8"'),
        ('method = "linear"\nmodels = ["a"]\nignore = "x"', "ignore is 'x'"),
        ('method = "linear"\nmodels = ["a"]\nmerge = 1', "merge holds named tables"),
        ('method = "linear"\nmodels = ["a"]\nbase = "b"', "linear takes no base"),
        ('method = "slerp"\nmodels = ["a"]', "slerp takes 2 models"),
        ('method = "slerp"\nmodels = ["a", "b"]\nweights = [1, 1]', "takes no weights"),
        ('method = "slerp"\nmodels = ["a", "b"]\nt = 1.5', "t is 1.5; it must be from 0 to 1"),
        ('method = "ties"\nmodels = ["a"]', "ties needs the base"),
        ('method = "ties"\nbase = "b"\nmodels = ["a"]\nweights = [-1]', "a weight is -1"),
        ('method = "ties"\nbase = "b"\nmodels = ["a"]\ndensity = 0', "density is 0"),
        ('method = "dare"\nbase = "b"\nmodels = ["a"]\ndrop = 1', "drop is 1"),
        ('method = "linear"\nmodels = ["a"]\n[merge.x]\nmethod = "linear"', "used by nothing"),
        (
            'method = "linear"\nmodels = ["x"]\n[merge.x]\nmethod = "linear"\nmodels = ["y"]\n'
            '[merge.y]\nmethod = "linear"\nmodels = ["x"]',
            "contains itself: x > y > x",
        ),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    (tmp_path / "none.json").write_text("{}")
    for name in ("none.toml", "bytes.toml", "none.json"):
        with pytest.raises(UsageError, match="Cannot read the recipe"):
            read_recipe(tmp_path / name)
    (tmp_path / "list.json").write_text('{"recipe": []}')
    with pytest.raises(UsageError, match=r"list.json\": it is \[\]; write a table"):
        read_recipe(tmp_path / "list.json")


def test_mistakes_in_python_are_named() -> None:
    wrong: list[dict[str, Any]] = [
        {"method": "best", "models": ("a",)},
        {"method": "linear", "models": ("a",), "parameters": {"t": 1}},
    ]
    for arguments in wrong:
        with pytest.raises(UsageError):
            Merge(**arguments)


def test_weights_without_an_average_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    a, b = write_llama(tmp_path / "a", 1), write_llama(tmp_path / "b", 2)
    weights = ({"*.norm.*": 1, "*": 2}, -1)
    with pytest.raises(UsageError, match=r'"model.norm.weight" the weights \[1.0, -1.0\] sum to 0'):
        open_recipe(MergeRecipe(Merge("linear", (a, b), weights=weights)))


def test_a_method_of_ones_own(tmp_path: Path) -> None:
    largest = Method("largest", lambda given: torch.stack(list(given.tensors)).max(dim=0).values)
    paths = [write_llama(tmp_path / name, seed) for seed, name in enumerate("ab")]
    checkpoint = open_recipe(MergeRecipe(Merge(largest, tuple(paths))))
    a, b = (llama_tensors(seed)["model.norm.weight"] for seed in range(2))
    assert torch.equal(checkpoint.read("model.norm.weight").float(), torch.maximum(a, b))
    assert checkpoint.about.label.startswith("largest(")
    assert largest.name not in METHODS
