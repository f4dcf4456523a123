"""``coolfusion merge``: one folder from several, or a message that says why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from coolfusion.cli.merge import METHODS, PARAMETERS, parse_size
from coolfusion.errors import UsageError
from coolfusion.merging import METHODS as REGISTRY
from coolfusion.merging import Merge, merge
from tests.checkpoints import (
    llama_tensors,
    tensors_of,
    write_adapter,
    write_checkpoint,
    write_llama,
)
from tests.cli.conftest import Run


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "a", "b")):
        write_llama(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CALLS: dict[str, tuple[str, Merge]] = {
    "linear": ("-m a -m b --weights 1,3", Merge("linear", ("a", "b"), weights=(1.0, 3.0))),
    "slerp": ("-m a -m b --t 0.25", Merge("slerp", ("a", "b"), parameters={"t": 0.25})),
    "task_arithmetic": (
        "-m a -m b --base base --scale 0.5",
        Merge("task_arithmetic", ("a", "b"), "base", parameters={"scale": 0.5}),
    ),
    "ties": (
        "-m a -m b --base base --density 0.5",
        Merge("ties", ("a", "b"), "base", parameters={"density": 0.5}),
    ),
    "dare": (
        "-m a -m b --base base --drop 0.75 --seed 4",
        Merge("dare", ("a", "b"), "base", parameters={"drop": 0.75}, seed=4),
    ),
    "dare_ties": ("-m a -m b --base base", Merge("dare_ties", ("a", "b"), "base")),
}


def test_the_help_knows_every_method_and_parameter() -> None:
    assert METHODS.replace(" or ", ", ").split(", ") == list(REGISTRY)
    for name, text in PARAMETERS.items():
        takers = [method for method in REGISTRY.values() if name in method.parameters]
        assert text.startswith(", ".join(method.name for method in takers) + ":")
        assert f"(default {takers[0].parameters[name].default:g})" in text


@pytest.mark.parametrize("method", REGISTRY)
def test_the_command_does_what_the_library_does(run: Run, three: Path, method: str) -> None:
    options, wanted = CALLS[method]
    got = run("merge", "--method", method, *options.split(), "--output", "out")
    assert (got.code, got.out) == (0, "")
    assert "Merged 11 tensors" in got.err
    merge(wanted, three / "wanted")
    command, library = tensors_of(three / "out"), tensors_of(three / "wanted")
    assert all(torch.equal(command[name], library[name]) for name in library)
    origins = [json.loads((three / n / "merge.json").read_text()) for n in ("out", "wanted")]
    assert origins[0] == origins[1]


def test_a_recipe_file(run: Run, three: Path) -> None:
    (three / "recipe.toml").write_text(
        'method = "slerp"\nmodels = ["base", "both"]\n'
        '[merge.both]\nmethod = "linear"\nmodels = ["a", "b"]\n'
    )
    got = run("merge", "--recipe", "recipe.toml", "--output", "out", "-q")
    assert (got.code, got.out, got.err) == (0, "", "")
    merge(Merge("slerp", ("base", Merge("linear", ("a", "b")))), three / "wanted")
    command, library = tensors_of(three / "out"), tensors_of(three / "wanted")
    assert all(torch.equal(command[name], library[name]) for name in library)
    again = run("merge", "--recipe", "out/merge.json", "--output", "again")
    assert again.code == 0
    assert tensors_of(three / "again").keys() == library.keys()


def test_a_fusion_file_names_the_models(run: Run, three: Path) -> None:
    (three / "fusion.toml").write_text('models = ["a", "b"]\nstrategy = "mixture"\n')
    assert run(*"merge --method linear -m fusion.toml --output from_file".split()).code == 0
    assert run(*"merge --method linear -m a -m b --output named".split()).code == 0
    named, from_file = tensors_of(three / "named"), tensors_of(three / "from_file")
    assert named.keys() == from_file.keys()
    assert all(torch.equal(named[key], from_file[key]) for key in named)
    (three / "fusion.toml").write_text('reranker = "mean_nll"\n')
    refused = run(*"merge --method linear -m fusion.toml --output nothing".split())
    assert refused.code == 2
    assert "names no models" in refused.err


def test_an_adapter_is_baked_in(run: Run, three: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    factors = {f"{name}.lora_A.weight": torch.eye(2, 4), f"{name}.lora_B.weight": torch.eye(4, 2)}
    write_adapter(three / "lora", factors)
    got = run("merge", "--method", "linear", "-m", "lora", "--on", "base", "--output", "out")
    assert got.code == 0, got.err
    change = tensors_of(three / "out")[name + ".weight"] - llama_tensors(0)[name + ".weight"]
    assert torch.allclose(change, torch.diag(torch.tensor([2.0, 2, 0, 0])))


def test_shards_types_and_left_out_tensors(run: Run, three: Path) -> None:
    for seed, name in enumerate("cd"):
        buffer = {"model.rotary_emb.inv_freq": torch.ones(2)}
        write_checkpoint(three / name, {**llama_tensors(seed), **buffer})
    options = "-m c -m d --dtype bfloat16 --max-shard-size 0.1kB --ignore *.inv_freq"
    got = run("merge", "--method", "linear", *options.split(), "--output", "out")
    assert got.code == 0, got.err
    tensors = tensors_of(three / "out")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors.keys() == llama_tensors(0).keys()
    assert len(list((three / "out").glob("model-*.safetensors"))) == 4


def test_progress_on_a_terminal(run: Run, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    got = run("merge", "--method", "linear", "-m", "a", "-m", "b", "--output", "out")
    shown = got.err.split("\r")
    assert any(line.startswith("merging: 100%|") and "768/768" in line for line in shown)
    assert shown[-1].startswith("Merged 11 tensors, 768 B")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Say what to merge"),
        ("--method linear", "Say what to merge"),
        ("-m a -m b", "Say what to merge"),
        ("--recipe none.toml", "Cannot read the recipe"),
        ("--recipe x.toml --seed 3", "--seed and --recipe both"),
        ("--recipe x.toml -m a", "--model and --recipe both"),
        ("--method best -m a", 'no merge method "best"'),
        ("--method linear -m a -m none", 'no folder "none"'),
        ("--method linear -m a --weights x", '--weights is "x"'),
        ("--method linear -m a --weights a=1", "go by order"),
        ("--method linear -m a --t 0.5", "linear has no parameter t"),
        ("--method linear -m a --on base", "none of the models is one"),
        ("--method ties -m a", "needs the base"),
        ("--method linear -m a --dtype int8", 'no dtype "int8"'),
        ("--method linear -m a --max-shard-size big", '--max-shard-size is "big"'),
        ("--method linear -m a --output a", "exists and is not empty"),
        ("--method linear -m a --output none/out", "no folder"),
    ],
)
def test_mistakes_are_named(run: Run, three: Path, arguments: str, message: str) -> None:
    options = arguments.split()
    if "--output" not in options:
        options += ["--output", "out"]
    got = run("merge", *options)
    assert (got.code, got.out) == (2, "")
    assert message in got.err
    assert got.err.startswith("coolfusion: error: ")
    assert sorted(path.name for path in three.iterdir()) == ["a", "b", "base"]


def broken(three: Path) -> dict[str, str]:
    """Damaged copies of checkpoint ``a`` by what the message must say of them."""
    damaged = {
        "model-00001-of-00002.safetensors": {"num_shards": 2},
        "cut short": {},
        "NaN": {},
        "model_type = 'llama'": {"model_type": "gpt2"},
        "Row 0 of": {"vocabulary": tuple("0123456789abcd")},
    }
    for number, (message, options) in enumerate(damaged.items()):
        folder = write_llama(three / f"bad{number}", 1, **options)
        if message.startswith("model-"):
            (folder / message).unlink()
        elif message == "cut short":
            file = folder / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-9])
        elif message == "NaN":
            file = folder / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    return {message: f"bad{number}" for number, message in enumerate(damaged)}


def test_damaged_checkpoints_are_named(run: Run, three: Path) -> None:
    for message, folder in broken(three).items():
        got = run("merge", "--method", "linear", "-m", "a", "-m", folder, "--output", "out")
        assert (got.code, got.out) == (2, ""), got.err
        assert message in got.err
        assert folder in got.err
        assert not (three / "out").exists()
        assert not list(three.glob(".out*"))


def test_an_interruption_leaves_nothing(
    run: Run, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coolfusion.cli.progress.ProgressBar.show", interrupt)
    got = run("merge", "--method", "linear", "-m", "a", "--output", "out")
    assert got.code == 130
    assert sorted(path.name for path in three.iterdir()) == ["a", "b", "base"]


def test_overwriting_when_asked(run: Run, three: Path) -> None:
    once = ["merge", "--method", "linear", "-m", "a", "--output", "out"]
    assert run(*once).code == 0
    assert "exists and is not empty" in run(*once).err
    assert run(*once, "--overwrite").code == 0


def test_sizes() -> None:
    assert [parse_size(text) for text in ("5GB", "1.5 MB", "200kB", "7", "2TB")] == [
        *(5 * 10**9, 1_500_000, 200_000, 7, 2 * 10**12)
    ]
    for wrong in ("", "GB", "-1GB", "0", "5XB", "3GiB"):
        with pytest.raises(UsageError):
            parse_size(wrong)


HOSTILE: dict[str, str] = {
    "brackets": "models = " + "[" * 100_000,
    "chain": 'method = "linear"\nmodels = ["m0"]\n'
    + "".join(f'[merge.m{n}]\nmethod = "linear"\nmodels = ["m{n + 1}"]\n' for n in range(1_499))
    + '[merge.m1499]\nmethod = "linear"\nmodels = ["a"]\n',
    "huge weights": 'method = "linear"\nmodels = ["a", "b"]\nweights = [1e308, 1e308]',
    "keys": "a." * 20_000 + "b = 1",
    "nothing left": 'method = "linear"\nmodels = ["a", "b"]\nignore = ["*"]',
    "dates": 'method = "linear"\nmodels = [1979-05-27]',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_the_callers_mistake(run: Run, three: Path, name: str) -> None:
    (three / "recipe.toml").write_text(HOSTILE[name])
    got = run("merge", "--recipe", "recipe.toml", "--output", "out")
    assert got.code == 2
    assert got.err.startswith("coolfusion: error: ")
    assert len(got.err) < 1_000
    assert not (three / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--ignore *",
        "--ignore *.weight --ignore *",
        "--weights 1e308,1e308",
        "--weights 1,-1",
        "--weights nan,1",
        "--weights inf,1",
        "--seed -1",
        "--seed 99999999999999999999999",
        "--max-shard-size 0",
        "--dtype int8",
        "--recipe none.toml",
    ],
)
def test_hostile_options_are_the_callers_mistake(run: Run, three: Path, options: str) -> None:
    command = ["merge", "--method", "linear", "-m", "a", "-m", "b", "--output", "out"]
    got = run(*command, *options.split())
    assert got.code == 2
    assert "Traceback" not in got.err
    assert sorted(path.name for path in three.iterdir()) == ["a", "b", "base"]
