"""Recipes as graphs: what is named twice is one node, and what is nested has a bound."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion.documents import json_text, parsed_json
from coolfusion.errors import LoadError, UsageError
from coolfusion.merging import METHODS, Adapter, Inputs, Merge, MergeRecipe, Method, merge
from coolfusion.merging import merged as merged_module
from coolfusion.merging.merge_recipe import MAX_NESTED, recipe_dict
from coolfusion.merging.merged import open_recipe
from coolfusion.merging.recipe_file import read_recipe, recipe_from
from tests.checkpoints import llama_tensors, tensors_of, write_adapter, write_llama

NORM = "model.norm.weight"
FACTORS = {
    "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4),
    "model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(4, 2),
}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        write_llama(tmp_path / name, seed)
    return tmp_path


def doubled(depth: int, leaf: Any, method: str | Method = "linear") -> Any:
    """A recipe in which each node names the next one twice."""
    for _ in range(depth):
        leaf = Merge(method, (leaf, leaf))
    return leaf


def counting(calls: Counter[str]) -> Method:
    """The mean, which counts the tensors it is computed for."""

    def mean(given: Inputs) -> torch.Tensor:
        calls[given.name] += 1
        tensors = list(given.tensors)
        result = sum(tensors) / len(tensors)
        for tensor in tensors:
            tensor.zero_()  # its own; nobody else sees this
        assert isinstance(result, torch.Tensor)
        return result

    return Method("mean", mean)


def test_a_node_named_twice_is_opened_and_computed_once(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        merged_module,
        "open_stored",
        lambda path, of=merged_module.open_stored: opened.append(str(path)) or of(path),
    )
    calls: Counter[str] = Counter()
    depth = MAX_NESTED - 1
    top = doubled(depth, Merge("linear", (str(three / "a"), str(three / "b"))), counting(calls))
    checkpoint = open_recipe(MergeRecipe(top))
    assert Counter(opened) == {str(three / "a"): 1, str(three / "b"): 1}
    for count in (1, 2):
        got = checkpoint.read(NORM)
        assert calls == {NORM: depth * count}
    mean = (llama_tensors(0)[NORM] + llama_tensors(1)[NORM]) / 2
    assert torch.allclose(got.float(), mean)
    assert len(checkpoint.about.label) < 300


def test_equal_nodes_are_one_node_however_they_are_written(three: Path) -> None:
    calls: Counter[str] = Counter()
    mean = counting(calls)

    def tree(depth: int) -> Any:
        a, b = three / "a", three / "b"
        return Merge(mean, (tree(depth - 1), tree(depth - 1))) if depth else Merge(mean, (a, b))

    open_recipe(MergeRecipe(tree(6))).read(NORM)
    assert calls == {NORM: 7}


def by_hand(node: Any, name: str) -> torch.Tensor:
    """The tensor of a node as its paths say it, every node computed for each of them."""
    if not isinstance(node, Merge):
        return tensors_of(Path(node))[name].double()
    base = None if node.base is None else by_hand(node.base, name)
    how = node.how
    weights = node.weights or ((1.0,) * len(node.models) if how.weights else ())
    defaults = {key: parameter.default for key, parameter in how.parameters.items()}
    tensors = (by_hand(model, name) for model in node.models)
    numbers: Any = {**defaults, **node.parameters}
    return how.merge(Inputs(name, tensors, weights, numbers, node.seed, base))


@st.composite
def graphs(draw: Callable[..., Any]) -> list[tuple[str, list[int], int, int]]:
    """Merges by numbers of earlier nodes, of which 0 to 2 are checkpoints."""
    rows = []
    for number in range(3, draw(st.integers(4, 9))):
        method = draw(st.sampled_from(sorted(METHODS)))
        count = 2 if method == "slerp" else draw(st.integers(1, 3))
        inside = st.integers(0, number - 1)
        models = draw(st.lists(inside, min_size=count, max_size=count))
        rows.append((method, models, draw(inside), draw(st.integers(0, 2))))
    return rows


@given(graphs())
@settings(max_examples=25, deadline=None)
def test_a_graph_is_what_its_tree_is(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[int], int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "checkpoints of graphs"
    if not folder.exists():
        for seed, name in enumerate("abc"):
            write_llama(folder / name, seed)
    nodes: list[Any] = [str(folder / name) for name in "abc"]
    for method, models, base, seed in rows:
        needs_base = METHODS[method].needs_base
        chosen = tuple(nodes[model] for model in models)
        nodes.append(Merge(method, chosen, nodes[base] if needs_base else None, seed=seed))
    recipe = MergeRecipe(nodes[-1])
    assert torch.equal(open_recipe(recipe).read(NORM), by_hand(nodes[-1], NORM))
    again = recipe_from(json.loads(json.dumps(recipe_dict(recipe))))
    assert recipe_dict(again) == recipe_dict(recipe)
    assert torch.equal(open_recipe(again).read(NORM), open_recipe(recipe).read(NORM))


def toml_of(depth: int, times: int = 2) -> str:
    """A recipe in which each named merge names the next one several times."""
    lines = [f'method = "linear"\nmodels = {["m0"] * times}\n']
    for level in range(depth):
        models = [f"m{level + 1}"] * times if level + 1 < depth else ["a", "b"]
        lines.append(f'[merge.m{level}]\nmethod = "linear"\nmodels = {models}\n')
    return "\n".join(lines)


def test_a_file_is_read_once_for_each_name(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = Merge.__post_init__
    monkeypatch.setattr(Merge, "__post_init__", lambda self: made.append(1) or real(self))
    depth = MAX_NESTED - 1
    (three / "recipe.toml").write_text(toml_of(depth, times=3))
    recipe = read_recipe(three / "recipe.toml")
    assert len(made) == depth + 1
    monkeypatch.undo()
    out = merge(recipe, three / "out")
    again = read_recipe(out / "merge.json")
    assert recipe_dict(again) == recipe_dict(recipe)
    assert len((out / "merge.json").read_text()) < 400 * depth
    mean = (llama_tensors(0)[NORM] + llama_tensors(1)[NORM]) / 2
    assert torch.allclose(tensors_of(out)[NORM], mean)


def test_names_for_nodes_named_twice_are_no_paths() -> None:
    inner = Merge("linear", ("m0", "m2"))
    top = Merge("linear", (inner, Adapter("m1", inner), inner, "m3"))
    data = json.loads(json.dumps(recipe_dict(MergeRecipe(top))))
    assert list(data["merge"]) == ["m4"]
    assert recipe_from(data).merge.models == (
        recipe_from(recipe_dict(MergeRecipe(inner))).merge,
        Adapter("m1", recipe_from(recipe_dict(MergeRecipe(inner))).merge),
        recipe_from(recipe_dict(MergeRecipe(inner))).merge,
        "m3",
    )


CHAINS: dict[str, Callable[[int], str]] = {
    "names": lambda n: toml_of(n, times=1),
    "names, twice": toml_of,
    "tables": lambda n: (
        'method = "linear"\nmodels = ['
        + '{method = "linear", models = [' * n
        + '"a"'
        + "]}" * n
        + "]"
    ),
    "bases": lambda n: (
        'method = "ties"\nmodels = ["a"]\nbase = '
        + '{method = "ties", models = ["a"], base = ' * n
        + '"a"'
        + "}" * n
    ),
    "adapters": lambda n: (
        'method = "linear"\nmodels = [' + '{path = "x", on = ' * n + '"a"' + "}" * n + "]"
    ),
}


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("depth", [MAX_NESTED, 99, 1_500, 10_000])
def test_chains_of_any_length_are_refused(tmp_path: Path, kind: str, depth: int) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(CHAINS[kind](depth))
    with pytest.raises(UsageError, match=r"inside each other|nested more than 200"):
        read_recipe(file)
    if depth == MAX_NESTED:
        file.write_text(CHAINS[kind](depth - 1))
        assert read_recipe(file).merge.depth == MAX_NESTED


@pytest.mark.parametrize("length", [1, 2, 7, 50, 1_500])
def test_circles_of_any_length_are_named(tmp_path: Path, length: int) -> None:
    lines = ['method = "linear"\nmodels = ["m0"]\n']
    for level in range(length):
        inner = f'{{path = "x", on = "m{(level + 1) % length}"}}'
        lines.append(f'[merge.m{level}]\nmethod = "linear"\nmodels = ["a", {inner}]\n')
    file = tmp_path / "recipe.toml"
    file.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"\[merge\.m0\] contains itself: m0 > .*m0\.") as caught:
        read_recipe(file)
    assert len(str(caught.value)) < 400


def nested(depth: int) -> Iterator[Callable[[], Any]]:
    """Ways to nest nodes in a program."""

    def repeated(wrap: Callable[[Any], Any]) -> Callable[[], Any]:
        def build() -> Any:
            node: Any = "a"
            for _ in range(depth):
                node = wrap(node)
            return node

        return build

    yield repeated(lambda node: Merge("linear", (node,)))
    yield repeated(lambda node: Merge("linear", (node, node)))
    yield repeated(lambda node: Merge("ties", ("a",), node))
    yield repeated(lambda node: Adapter("x", node))
    yield repeated(lambda node: Merge("linear", (Adapter("x", node), node)))


@pytest.mark.parametrize("way", range(5))
def test_nodes_built_in_a_program_have_the_same_bound(way: int) -> None:
    with pytest.raises(UsageError, match="inside each other"):
        list(nested(5_000))[way]()
    small = MAX_NESTED // 2 if way == 4 else MAX_NESTED
    one, other = list(nested(small))[way](), list(nested(small))[way]()
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, "a"}) == 2
    assert one != list(nested(small - 1))[way]()
    assert len(repr(one)) < 200
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == copy.copy(one) == one
    if isinstance(one, Merge):
        recipe = MergeRecipe(one)
        written = json_text({"recipe": recipe_dict(recipe)}, indent=2)
        assert recipe_from(parsed_json(written)["recipe"]).merge.depth == one.depth
        assert pickle.loads(pickle.dumps(recipe)) == recipe
        assert hash(recipe) == hash(MergeRecipe(other))
        assert replace(one, seed=1) != one


def test_adapters_that_name_each_other_have_an_end(tmp_path: Path) -> None:
    write_adapter(tmp_path / "self", FACTORS, tmp_path / "self")
    write_adapter(tmp_path / "one", FACTORS, tmp_path / "other")
    write_adapter(tmp_path / "other", FACTORS, tmp_path / "one")
    for name in ("self", "one"):
        with pytest.raises(LoadError, match=r"belongs to itself"):
            open_recipe(MergeRecipe(Merge("linear", (tmp_path / name,))))


def test_what_makes_nodes_different() -> None:
    def first(given: Inputs) -> torch.Tensor:
        return next(iter(given.tensors))

    def last(given: Inputs) -> torch.Tensor:
        return list(given.tensors)[-1]

    nodes = [
        Merge("linear", ("a", "b")),
        Merge("linear", ("b", "a")),
        Merge("linear", ("a", "b"), weights=(1, 2)),
        Merge("linear", ("a", "b"), weights=([1, 2], 2)),
        Merge("linear", ("a", "b"), weights=({"*": 1, "a*": 2}, 2)),
        Merge("linear", ("a", "b"), weights=({"a*": 2, "*": 1}, 2)),
        Merge("linear", ("a", "b"), seed=1),
        Merge("dare", ("a", "b"), "c"),
        Merge("dare", ("a", "b", "c"), "c"),
        Merge("dare", ("a",), "b"),
        Merge(Method("linear", first), ("a", "b")),
        Merge(Method("linear", last), ("a", "b")),
        Adapter("a"),
        Adapter("a", "b"),
    ]
    assert len(set(nodes)) == len(nodes)
    assert Merge("linear", ("a", Path("b")), weights=([1, 2], 2)) == nodes[3]
    assert Merge(METHODS["linear"], ["a", "b"]) == nodes[0]  # type: ignore[arg-type]


def test_a_caller_that_changes_its_lists_changes_no_recipe() -> None:
    knots, table = [0, 1], {"*": [0.5, 1.0]}
    weights: Any = [knots, 1.0]
    node = Merge("ties", ("a", "b"), "c", weights, {"density": table})
    same = copy.deepcopy(node)
    knots[0], weights[1], table["*"] = 7, 9.0, [float("nan")]
    assert node == same == copy.deepcopy(node)
