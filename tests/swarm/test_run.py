"""Whole searches: found, kept, resumed after a kill, side by side, and stopped by what goes wrong."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from coolfusion.errors import CoolfusionError, LoadError, UsageError
from coolfusion.merging import merge
from coolfusion.merging.merge_recipe import recipe_dict
from coolfusion.search import Coefficients, Grid, Limits, Point
from coolfusion.swarm import (
    Evaluation,
    Experts,
    FunctionMeasure,
    Particle,
    Result,
    SwarmPlan,
    SwarmProgress,
    Utility,
    swarm,
)
from coolfusion.swarm.evaluator import OneByOne
from coolfusion.swarm.log import evaluation_from
from coolfusion.swarm.processes import SideBySide
from coolfusion.swarm.report import as_dict, as_markdown
from coolfusion.swarm.utility import utility_dict
from coolfusion.swarm.worker import serve
from tests.checkpoints import llama_tensors, tensors_of, write_llama

HERE = "tests.swarm.test_run:"
PLAN = SwarmPlan(num_particles=5, limits=Limits(max_iterations=3, patience=3, restart=1), seed=3)
SHARES = (0.3, 0.8, -0.1)


@lru_cache
def mixture(shares: tuple[float, ...]) -> dict[str, torch.Tensor]:
    experts = [llama_tensors(seed) for seed in range(len(shares))]
    return {
        name: sum(
            (share * each[name] for share, each in zip(shares, experts, strict=True)),
            start=torch.zeros(()),
        )
        for name in experts[0]
    }


def distance(folder: Path, shares: tuple[float, ...]) -> float:
    got, wanted = tensors_of(folder), mixture(shares)
    return math.sqrt(sum(float((got[name] - wanted[name]).square().sum()) for name in wanted))


def near(folder: Path, device: str | None) -> float:
    """How near a particle is to a certain mixture of the experts."""
    return 1 / (1 + distance(folder, SHARES))


def dying(folder: Path, device: str | None) -> float:
    """The same, by a process that is killed at its seventh evaluation."""
    mark = folder.parents[1] / "dead"
    log = folder.parents[1] / "evaluations.jsonl"
    if log.read_bytes().count(b"\n") == 7 and not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return near(folder, device)


def failing(folder: Path, device: str | None) -> float:
    """Nothing but the second expert works."""
    return -math.inf if distance(folder, (0.0, 1.0, 0.0)) else 1.0


def hopeless(folder: Path, device: str | None) -> float:
    return -math.inf


NEAR = Utility((FunctionMeasure(HERE + "near"),))


@pytest.fixture
def experts(tmp_path: Path) -> Experts:
    return Experts(tuple(write_llama(tmp_path / name, seed) for seed, name in enumerate("abc")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The search of ``PLAN`` from beginning to end."""
    folder = tmp_path_factory.mktemp("whole")
    experts = Experts(tuple(write_llama(folder / name, seed) for seed, name in enumerate("abc")))
    return swarm(experts, NEAR, folder / "out", plan=PLAN)


def without_times(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            k: without_times(v)
            for k, v in data.items()
            if k not in ("seconds", "num_new", "checkpoint")
        }
    return [without_times(v) for v in data] if isinstance(data, list) else data


def same(one: Result, other: Result) -> bool:
    return bool(without_times(as_dict(one)) == without_times(as_dict(other)))


def test_a_search_and_all_it_leaves(tmp_path: Path, experts: Experts) -> None:
    seen: list[SwarmProgress] = []
    result = swarm(experts, NEAR, tmp_path / "out", plan=PLAN, progress=seen.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("best", "evaluations.jsonl", "report.md", "report.json", "search.svg")
    }
    assert result.best.utility > max(each.utility for each in result.alone)
    assert [each.point for each in result.alone] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert sum(result.best.point) == pytest.approx(1)
    # The checkpoint is the particle that was evaluated.
    assert near(tmp_path / "out" / "best", None) == result.best.utility
    wanted = merge(experts.recipe(result.best.point), tmp_path / "wanted")
    got = tensors_of(tmp_path / "out" / "best")
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors_of(wanted).items())
    # SwarmProgress never goes back and ends where the result does.
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert [step.num_new for step in seen] == sorted(step.num_new for step in seen)
    assert seen[-1].done == result.num_evaluations == result.num_new <= seen[-1].total == 20
    assert seen[-1].best == result.best.utility
    # The reports say the same.
    text = (tmp_path / "out" / "report.md").read_text()
    assert text == as_markdown(result)
    assert f"Best utility {result.best.utility:.4f}" in text
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["best"]["point"] == list(result.best.point)
    picture = ET.parse(tmp_path / "out" / "search.svg").getroot()
    dots = [each for each in picture.iter() if each.tag.endswith("circle")]
    assert len(dots) == sum(len(each.utilities) for each in result.winner.iterations)


def test_the_same_arguments_find_the_same(tmp_path: Path, experts: Experts, whole: Result) -> None:
    assert same(whole, swarm(experts, NEAR, tmp_path / "y", plan=PLAN))
    other = swarm(experts, NEAR, tmp_path / "z", plan=replace(PLAN, seed=4))
    assert whole.best.point != other.best.point


def test_nothing_is_evaluated_twice(tmp_path: Path, experts: Experts) -> None:
    first = swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    lines = (tmp_path / "out" / "evaluations.jsonl").read_bytes()
    again = swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    assert again.num_new == 0
    assert same(first, again)
    assert (tmp_path / "out" / "evaluations.jsonl").read_bytes() == lines
    # More iterations go on from there.
    longer = replace(PLAN, limits=Limits(max_iterations=5, patience=9, restart=1))
    assert swarm(experts, NEAR, tmp_path / "out", plan=longer).num_new == 10


@pytest.mark.parametrize("after", [0, 3, 5, 12])
def test_stopped_after_any_evaluation_it_resumes_to_the_whole(
    tmp_path: Path, experts: Experts, whole: Result, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    evaluate = OneByOne.evaluate_one
    count = 0

    def mortal(self: OneByOne, point: Point) -> Evaluation:
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return evaluate(self, point)

    with monkeypatch.context() as patch:
        patch.setattr(OneByOne, "evaluate_one", mortal)
        with pytest.raises(KeyboardInterrupt):
            swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluations.jsonl"}
    rest = swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    assert rest.num_new == whole.num_evaluations - after
    assert same(whole, rest)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
def test_a_killed_process_loses_no_finished_evaluation(
    tmp_path: Path, experts: Experts, whole: Result
) -> None:
    mortal = Utility((FunctionMeasure(HERE + "dying"),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, and there are none
        child = os.fork()
    if child == 0:
        try:
            swarm(experts, mortal, tmp_path / "out", plan=PLAN)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert list((tmp_path / "out" / "particles").iterdir())  # what was being evaluated
    rest = swarm(experts, mortal, tmp_path / "out", plan=PLAN)
    assert rest.num_new == whole.num_evaluations - 6
    assert rest.best.utility == whole.best.utility
    assert not (tmp_path / "out" / "particles").exists()


def test_side_by_side_finds_the_same(tmp_path: Path, experts: Experts) -> None:
    plan = replace(PLAN, limits=Limits(max_iterations=1))
    alone = swarm(experts, NEAR, tmp_path / "alone", plan=plan)
    both = swarm(
        experts, NEAR, tmp_path / "both", plan=plan, devices=("cpu", "cpu"), scratch=tmp_path
    )
    assert same(alone, both)
    assert not list(tmp_path.glob("particles*"))


def test_the_other_process_in_this_one(tmp_path: Path, experts: Experts) -> None:
    begin = {
        "recipe": recipe_dict(experts.recipe((1.0,) * 3)),
        "utility": utility_dict(NEAR),
        "scratch": str(tmp_path),
        "device": None,
    }
    lines = [json.dumps(line) for line in (begin, {"point": [0, 1, 0]}, {"point": [2, -1, 0]})]
    answers = io.StringIO()
    serve(lines, answers)
    got = [evaluation_from(json.loads(line)) for line in answers.getvalue().splitlines()]
    alone = OneByOne(experts.open(), NEAR, tmp_path)
    wanted = list(alone.evaluate([(0.0, 1.0, 0.0), (2.0, -1.0, 0.0)]))
    assert [each.utility for each in got] == [each.utility for each in wanted]
    (tmp_path / "a" / "model.safetensors").write_bytes(b"short")
    for asked in (lines, lines[1:]):
        answers = io.StringIO()
        serve(asked, answers)
        first = json.loads(answers.getvalue().splitlines()[0])
        assert first["is_usage"]
        assert "model.safetensors" in first["error"] or "before anything" in first["error"]


def test_a_process_that_has_ended_is_named(tmp_path: Path, experts: Experts) -> None:
    with SideBySide(experts, NEAR, tmp_path, ("cpu",)) as evaluator:
        for process in evaluator._processes:
            process._process.kill()
        with pytest.raises(CoolfusionError, match="on cpu has ended"):
            list(evaluator.evaluate([(1.0, 0.0, 0.0)]))


class Ours:
    """A measure of one's own."""

    name = "ours"

    def value(self, particle: Particle) -> float:
        return near(particle.folder, particle.device)

    def identity(self) -> dict[str, Any]:
        return {"ours": 1}


def test_a_measure_of_ones_own(tmp_path: Path, experts: Experts, whole: Result) -> None:
    result = swarm(experts, Utility((Ours(),)), tmp_path / "out", plan=PLAN)
    assert result.best.utility == whole.best.utility
    with pytest.raises(UsageError, match="which other processes do not know"):
        swarm(experts, Utility((Ours(),)), tmp_path / "y", plan=PLAN, devices=("cpu", "cpu"))


def test_several_measures_and_trials(tmp_path: Path, experts: Experts) -> None:
    utility = Utility((*NEAR.measures, Ours()))
    grid = Grid({"inertia": (0.1, 0.3), "social": (0.2, 0.6)})
    plan = replace(PLAN, trials=3, grid=grid)
    result = swarm(experts, utility, tmp_path / "out", plan=plan)
    assert len(result.trials) == 3
    tried = {(trial.coefficients.inertia, trial.coefficients.social) for trial in result.trials}
    assert len(tried) == 3
    assert {trial.coefficients.cognitive for trial in result.trials} == {0.3}
    assert result.best.utility == max(trial.best.utility for trial in result.trials)
    assert result.best.parts == (result.best.utility,) * 2
    # All trials start alike, and what they share is evaluated once.
    firsts = [trial.iterations[0].utilities for trial in result.trials]
    assert firsts[0] == firsts[1] == firsts[2]
    rounds = sum(len(trial.iterations) for trial in result.trials)
    assert result.num_evaluations == 5 * (rounds - 2)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Trials" in text
    assert "harmonic mean" in text


def test_particles_that_do_not_work_are_avoided(tmp_path: Path, experts: Experts) -> None:
    utility = Utility((FunctionMeasure(HERE + "failing"),))
    result = swarm(experts, utility, tmp_path / "out", plan=PLAN)
    assert result.best.point == (0, 1, 0)
    assert result.num_failed == result.num_evaluations - 1
    assert "does not work" in (tmp_path / "out" / "report.md").read_text()
    assert swarm(experts, utility, tmp_path / "out", plan=PLAN).num_new == 0
    with pytest.raises(CoolfusionError, match=r"No particle works.*minus infinity"):
        swarm(experts, Utility((FunctionMeasure(HERE + "hopeless"),)), tmp_path / "x", plan=PLAN)


def test_other_experts_are_not_mixed_in(tmp_path: Path, experts: Experts) -> None:
    swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    write_llama(tmp_path / "d", 9)
    with pytest.raises(UsageError, match="other settings: experts was"):
        swarm(Experts((*experts.models[:2], tmp_path / "d")), NEAR, tmp_path / "out", plan=PLAN)
    with pytest.raises(UsageError, match="other settings: dtype was"):
        swarm(replace(experts, dtype="float16"), NEAR, tmp_path / "out", plan=PLAN)
    with pytest.raises(UsageError, match="other settings: measures was"):
        swarm(experts, Utility((Ours(),)), tmp_path / "out", plan=PLAN)
    # The same files elsewhere are the same experts.
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = Experts((tmp_path / "moved", *experts.models[1:]))
    assert swarm(moved, NEAR, tmp_path / "out", plan=PLAN).num_new == 0


def test_outputs_that_cannot_be_used(tmp_path: Path, experts: Experts) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    for output, message in (
        ("none/out", "no folder"),
        ("file", "is a file"),
        ("full", "was not written by an earlier search"),
        ("a", "was not written by an earlier search"),
    ):
        with pytest.raises(UsageError, match=message):
            swarm(experts, NEAR, tmp_path / output, plan=PLAN)
    with pytest.raises(UsageError, match=r'no folder ".*none" for particles'):
        swarm(experts, NEAR, tmp_path / "out", plan=PLAN, scratch=tmp_path / "none")
    with pytest.raises(UsageError, match="no device"):
        swarm(experts, NEAR, tmp_path / "out", plan=PLAN, devices=())
    with pytest.raises(UsageError, match="2 particles cannot hold 3"):
        swarm(experts, NEAR, tmp_path / "out", plan=replace(PLAN, num_particles=2))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full(
    tmp_path: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the search and at a particle; a limit on the size of files is as good as a full disk."""
    resource = pytest.importorskip("resource")
    from coolfusion.merging import folder

    usage = folder.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "disk_usage", lambda path: usage._replace(free=100))
        with pytest.raises(UsageError, match="GB free"):
            swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
        with pytest.raises(CoolfusionError, match=r"A particle cannot be written .*File too large"):
            swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluations.jsonl"}
    assert swarm(experts, NEAR, tmp_path / "out", plan=PLAN).num_new == 20


def test_damaged_experts_stop_the_search(tmp_path: Path, experts: Experts) -> None:
    file = tmp_path / "c" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + b"\xff\xff\xff\xff")
    with pytest.raises(LoadError, match="NaN or infinite"):
        swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    file.write_bytes(whole[:-9])
    with pytest.raises(LoadError, match="cut short"):
        swarm(experts, NEAR, tmp_path / "new", plan=PLAN)
    assert not (tmp_path / "new").exists()


def test_only_a_few_particles_are_on_disk(
    tmp_path: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    parts = Utility.parts

    def counted(self: Utility, folder: Path, device: str | None) -> tuple[float, ...]:
        nonlocal most
        most = max(most, len(list(folder.parent.iterdir())))
        return parts(self, folder, device)

    monkeypatch.setattr(Utility, "parts", counted)
    swarm(experts, NEAR, tmp_path / "out", plan=PLAN)
    assert most == 1


def test_wrong_plans() -> None:
    for call, message in (
        (lambda: SwarmPlan(grid=Grid({"weight": (1.0,)})), "The grid names weight"),
        (lambda: SwarmPlan(trials=0), "0 points of a grid"),
        (lambda: SwarmPlan(trials=2, coefficients=Coefficients(floor=0.7), seed=2), "floor is 0.7"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
