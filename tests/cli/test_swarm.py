"""``coolfusion swarm``: the best of what lies between experts, or a message that says why not."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coolfusion.cli.swarm import COEFFICIENTS
from coolfusion.search import Coefficients, Limits
from coolfusion.swarm import Experts, FunctionMeasure, SwarmPlan, Utility, swarm
from tests.checkpoints import WIDTH, tensors_of, write_adapter, write_llama
from tests.cli.conftest import Run

HERE = "tests.cli.test_swarm:"
SHORT = "--particles 4 --iterations 2 --seed 3".split()


def norm(folder: Path, device: str | None) -> float:
    """Smaller weights are better."""
    return -sum(float(tensor.square().sum()) for tensor in tensors_of(folder).values())


def never(folder: Path, device: str | None) -> float:
    return -math.inf


def unable(folder: Path, device: str | None) -> float:
    raise RuntimeError("no judge today")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("a", "b", "c")):
        write_llama(tmp_path / name, seed)
    (tmp_path / "task.jsonl").write_text('{"prompt": "x", "reference": "y"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_help_says_the_defaults() -> None:
    for name, text in COEFFICIENTS.items():
        assert f"(default {getattr(Coefficients(), name):g})" in text


def test_the_command_does_what_the_library_does(run: Run, three: Path) -> None:
    options = "-m a -m b -m c --inertia 0.1 --step-length 1 --patience 2 --reach 2 --output out"
    got = run("swarm", *options.split(), "--utility", HERE + "norm", *SHORT)
    assert (got.code, got.out) == (0, ""), got.err
    wanted = swarm(
        Experts(("a", "b", "c")),
        Utility((FunctionMeasure(HERE + "norm"),)),
        three / "wanted",
        plan=SwarmPlan(4, 2.0, Coefficients(0.1, step_length=1.0), Limits(2, 2), seed=3),
    )
    command, library = tensors_of(three / "out" / "best"), tensors_of(three / "wanted" / "best")
    assert all(torch.equal(command[name], library[name]) for name in library)
    lines = got.err.splitlines()
    assert lines[0] == "iteration 0 of 2, best none yet"
    assert lines[1].startswith("iteration 1 of 2, best -")
    assert f"Best utility {wanted.best.utility:.4f} (best expert: " in lines[-1]
    assert "12 evaluations, 12 of them new" in lines[-1]
    again = run("swarm", *options.split(), "--utility", HERE + "norm", *SHORT)
    assert "12 evaluations, 0 of them new" in again.err


def test_trials_draw_what_was_not_given(run: Run, three: Path) -> None:
    options = "-m a -m b --trials 3 --social 0.9 --output out -q"
    got = run("swarm", *options.split(), "--utility", HERE + "norm", *SHORT)
    assert (got.code, got.out, got.err) == (0, "", "")
    trials = json.loads((three / "out" / "report.json").read_text())["trials"]
    assert [trial["coefficients"]["social"] for trial in trials] == [0.9] * 3
    assert len({trial["coefficients"]["cognitive"] for trial in trials}) > 1


def test_adapters(run: Run, three: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    for number, adapter in enumerate(("x", "y"), 1):
        factors = {
            f"{name}.lora_A.weight": number * torch.eye(2, WIDTH),
            f"{name}.lora_B.weight": torch.eye(WIDTH, 2),
        }
        write_adapter(three / adapter, factors)
    got = run(
        *("swarm", "-m", "x", "-m", "y", "--on", "a", "--utility", HERE + "norm"),
        *("--output", "out", *SHORT),
    )
    assert got.code == 0, got.err
    assert tensors_of(three / "out" / "best").keys() == tensors_of(three / "a").keys()


def test_a_task_on_real_models(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    """Two copies of a built-in model with disturbed weights; bits per byte of a sentence."""
    for seed, name in enumerate("ab"):
        shutil.copytree(models["sums"], tmp_path / name)
        torch.manual_seed(seed)
        tensors = load_file(models["sums"] / "model.safetensors")
        moved = {key: tensor + 0.02 * torch.randn_like(tensor) for key, tensor in tensors.items()}
        save_file(moved, tmp_path / name / "model.safetensors", {"format": "pt"})
    row = {"prompt": "Tom has 3 apples and buys 2 more. How many apples does Tom have?"}
    (tmp_path / "dev.jsonl").write_text(json.dumps({**row, "reference": "Tom has 3 + 2 = 5."}))
    got = run(
        *("swarm", "-m", tmp_path / "a", "-m", tmp_path / "b", "--output", tmp_path / "out"),
        *("--task", tmp_path / "dev.jsonl", "--metric", "perplexity", "--device", "cpu"),
        *("--particles", "3", "--iterations", "1"),
    )
    assert got.code == 0, got.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["measures"] == ["dev (perplexity)"]
    assert 0 < report["alone"][0]["utility"] <= report["best"]["utility"] < 1
    rerun = run(
        *("swarm", "-m", tmp_path / "a", "-m", tmp_path / "b", "--output", tmp_path / "out"),
        *("--task", tmp_path / "dev.jsonl", "--metric", "exact_match"),
    )
    assert rerun.code == 2
    assert "other settings: measures was" in rerun.err


def test_progress_on_a_terminal(run: Run, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    got = run(
        *("swarm", "-m", "a", "-m", "b", "--utility", HERE + "norm", "--output", "out", *SHORT)
    )
    (last,) = [line for line in got.err.split("\r") if "| 12/12 [" in line]
    assert last.startswith("searching: 100%|")
    assert ", iteration 2 of 2, best -" in last
    assert got.err.split("\r")[-1].startswith("Best utility")


UTILITY = f"--utility {HERE}norm"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-m a -m b", "Say what makes a particle good"),
        (f"-m a {UTILITY}", "was given 1"),
        (f"{UTILITY}", "was given 0"),
        ("-m a -m b --utility tests.nothing:x", "cannot be imported"),
        ("-m a -m b --utility norm", "cannot be imported"),
        ("-m a -m b --task none.jsonl", 'Cannot read "none.jsonl"'),
        ("-m a -m b --task task.jsonl --metric best", 'no metric "best"'),
        ("-m a -m b --task task.jsonl --metric x --metric y", "1 tasks were given 2 metrics"),
        ("-m a -m b --task task.jsonl --limit 0", "--limit is 0"),
        ("-m a -m b --task task.jsonl --max-new-tokens 0", "--max-new-tokens is 0"),
        ("-m a -m b --task task.jsonl --raw --system x", "--raw says there is none"),
        (f"-m a -m none {UTILITY}", 'no folder "none"'),
        (f"-m a -m b {UTILITY} --on c", "none of the models is one"),
        (f"-m a -m b {UTILITY} --dtype int8", 'no dtype "int8"'),
        (f"-m a -m b {UTILITY} --particles 1", "1 particles cannot hold 2"),
        (f"-m a -m b {UTILITY} --patience 0", "patience is 0"),
        (f"-m a -m b {UTILITY} --inertia -1", "inertia is -1"),
        (f"-m a -m b {UTILITY} --trials 1351", "1351 points of a grid of 1350"),
        (f"-m a -m b {UTILITY} --seed -1", "seed is -1"),
        (f"-m a -m b {UTILITY} --scratch none", 'no folder "none" for particles'),
        (f"-m a -m b {UTILITY} --output a", "was not written by an earlier search"),
        (f"-m a -m b {UTILITY} --output none/out", "no folder"),
    ],
)
def test_mistakes_are_named(run: Run, three: Path, arguments: str, message: str) -> None:
    options = arguments.split()
    if "--output" not in options:
        options += ["--output", "out"]
    got = run("swarm", *options)
    assert (got.code, got.out) == (2, "")
    assert message in got.err
    assert got.err.startswith("coolfusion: error: ")
    assert sorted(path.name for path in three.iterdir()) == ["a", "b", "c", "task.jsonl"]


def test_damaged_experts_are_named(run: Run, three: Path) -> None:
    damaged = {
        "model-00001-of-00002.safetensors": {"num_shards": 2},
        "cut short": {},
        "NaN": {},
        "model_type = 'llama'": {"model_type": "gpt2"},
        "Row 0 of": {"vocabulary": tuple("0123456789abcd")},
    }
    for number, (message, options) in enumerate(damaged.items()):
        folder = write_llama(three / f"bad{number}", 1, **options)  # type: ignore[arg-type]
        file = folder / "model.safetensors"
        if message.startswith("model-"):
            (folder / message).unlink()
        elif message == "cut short":
            file.write_bytes(file.read_bytes()[:-9])
        elif message == "NaN":
            file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\xff")
        got = run("swarm", "-m", "a", "-m", folder.name, *UTILITY.split(), "--output", "out")
        assert (got.code, got.out) == (2, ""), got.err
        assert message in got.err
        assert folder.name in got.err
        assert not (three / "out" / "best").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("never", "No particle works"), ("unable", "no judge today")]
)
def test_utilities_that_fail_are_named(run: Run, three: Path, name: str, message: str) -> None:
    got = run("swarm", "-m", "a", "-m", "b", "--utility", HERE + name, "--output", "out", "-q")
    assert got.code == 1
    assert message in got.err


def test_an_interruption_keeps_what_finished(
    run: Run, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["swarm", "-m", "a", "-m", "b", *UTILITY.split(), "--output", "out", *SHORT]

    def interrupt(*arguments: Any) -> None:
        if arguments[1] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("coolfusion.cli.progress.ProgressBar.show", interrupt)
        assert run(*command).code == 130
    assert "12 evaluations, 7 of them new" in run(*command).err
