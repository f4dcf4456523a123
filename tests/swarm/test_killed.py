"""A search that is killed again and again, at moments of chance, loses at most what was under way."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from coolfusion.search import Limits
from coolfusion.swarm import Experts, FunctionMeasure, SwarmPlan, Utility, swarm
from tests.checkpoints import tensors_of, write_llama

PLAN = SwarmPlan(num_particles=5, limits=Limits(max_iterations=3, patience=3), seed=4)


def witnessed(folder: Path, device: str | None) -> float:
    """The norm of one tensor, told to a file of its own that knows nothing of the log."""
    norm = float(tensors_of(folder)["model.norm.weight"].norm())
    with (folder.parents[2] / "witness").open("a") as file:
        file.write(f"{norm!r}\n")
    time.sleep(0.004)
    return norm


UTILITY = Utility((FunctionMeasure("tests.swarm.test_killed:witnessed"),))


def begun(experts: Experts, output: Path) -> int:
    """The search in a process of its own; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, and there are none
        child = os.fork()
    if child:
        return child
    try:
        swarm(experts, UTILITY, output, plan=PLAN)
    finally:
        os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills copies of this process")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_any_moment_it_goes_on_from_there(tmp_path: Path, seed: int) -> None:
    experts = Experts(tuple(write_llama(tmp_path / name, n) for n, name in enumerate("abc")))
    (tmp_path / "whole").mkdir()
    whole = swarm(experts, UTILITY, tmp_path / "whole" / "out", plan=PLAN)
    output, rng, num_killed, kept = tmp_path / "out", Random(seed), 0, b""
    for _ in range(12):
        child = begun(experts, output)
        time.sleep(rng.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        num_killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        log = output / "evaluations.jsonl"
        now = log.read_bytes() if log.exists() else b""
        assert now.startswith(kept)
        kept = now[: now.rfind(b"\n") + 1]
    assert num_killed >= 3
    num_kept = kept.count(b'"kind": "evaluation"')
    rest = swarm(experts, UTILITY, output, plan=PLAN)
    assert rest.num_new == whole.num_evaluations - num_kept
    assert rest.best.point == whole.best.point
    assert {path.name for path in output.iterdir()} == {
        path.name for path in (tmp_path / "whole" / "out").iterdir()
    }
    # Every evaluation that went on to the next one was kept: only what a kill met was done again.
    calls = Counter((tmp_path / "witness").read_text().split())
    assert len(calls) == rest.num_evaluations
    assert calls.total() - len(calls) <= num_killed
    lines = (output / "evaluations.jsonl").read_text().splitlines()
    points = [tuple(json.loads(line)["point"]) for line in lines[1:]]
    assert len(points) == len(set(points)) == rest.num_evaluations
