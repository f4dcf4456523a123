"""A search that is killed again and again, at moments of chance, loses at most what was under way."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from coolfusion.search import Limits
from coolfusion.swarm import Experts, FunctionMeasure, Result, SwarmPlan, Utility, swarm
from tests.checkpoints import tensors_of, write_llama

PLAN = SwarmPlan(num_particles=5, limits=Limits(max_iterations=3, patience=3), seed=4)


def witnessed(folder: Path, device: str | None) -> float:
    """The norm of one tensor, told to a file of its own that knows nothing of the log."""
    norm = float(tensors_of(folder)["model.norm.weight"].norm())
    with (folder.parents[2] / "witness").open("a") as file:
        file.write(f"{norm!r}\n")
    return norm


NUM_KILLS = 6
UTILITY = Utility((FunctionMeasure("tests.swarm.test_killed:witnessed"),))


def killed(experts: Experts, output: Path, after: int) -> bool:
    """Whether a search in a process of its own got as far as to kill itself.

    It does at the ``after``-th call or return of anything, within a measure, a write or between.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, and there are none
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    try:
        counted(lambda: swarm(experts, UTILITY, output, plan=PLAN), after)
    finally:
        os._exit(0)


def counted(call: Callable[[], Result], after: int | None = None) -> tuple[Result, int]:
    """What a call returns, and how many calls and returns it is made of; dies at one of them."""
    num_events = 0

    def count(*_: object) -> None:
        nonlocal num_events
        num_events += 1
        if num_events == after:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    try:
        result = call()
    finally:
        sys.setprofile(None)
    return result, num_events


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills copies of this process")
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_goes_on_from_there(tmp_path: Path, seed: int) -> None:
    experts = Experts(tuple(write_llama(tmp_path / name, n) for n, name in enumerate("abc")))
    (tmp_path / "whole").mkdir()
    whole, num_events = counted(
        lambda: swarm(experts, UTILITY, tmp_path / "whole" / "out", plan=PLAN)
    )
    output, rng, kept = tmp_path / "out", Random(seed), b""
    for _ in range(NUM_KILLS):
        # Together they are shorter than one search, so that none comes to its end.
        assert killed(experts, output, rng.randrange(1, num_events // (NUM_KILLS + 1)))
        log = output / "evaluations.jsonl"
        now = log.read_bytes() if log.exists() else b""
        assert now.startswith(kept)
        kept = now[: now.rfind(b"\n") + 1]
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
    assert calls.total() - len(calls) <= NUM_KILLS
    lines = (output / "evaluations.jsonl").read_text().splitlines()
    points = [tuple(json.loads(line)["point"]) for line in lines[1:]]
    assert len(points) == len(set(points)) == rest.num_evaluations
