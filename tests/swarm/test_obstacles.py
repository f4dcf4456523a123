"""What stands in the way of a search is named, and what was evaluated before it is kept."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from coolfusion.errors import CoolfusionError, LoadError, UsageError
from coolfusion.merging import folder as folder_module
from coolfusion.search import Limits
from coolfusion.swarm import Experts, FunctionMeasure, SwarmPlan, SwarmProgress, Utility, swarm
from coolfusion.swarm import output as output_module
from tests.checkpoints import tensors_of, write_llama

PLAN = SwarmPlan(num_particles=4, limits=Limits(max_iterations=1), seed=1)


def norm(folder: Path, device: str | None) -> float:
    return float(tensors_of(folder)["model.norm.weight"].norm())


UTILITY = Utility((FunctionMeasure("tests.swarm.test_obstacles:norm"),))


@pytest.fixture
def experts(tmp_path: Path) -> Experts:
    return Experts((write_llama(tmp_path / "a", 1, num_shards=2), write_llama(tmp_path / "b", 2)))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_experts_that_cannot_be_used_leave_no_trace(tmp_path: Path, experts: Experts) -> None:
    other = write_llama(tmp_path / "c", 3, model_type="gpt2")
    with pytest.raises(UsageError, match=r"model_type = .llama., that of .*c. .gpt2."):
        swarm(Experts((*experts.models, other)), UTILITY, tmp_path / "out", plan=PLAN)
    (tmp_path / "a" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(LoadError, match=r'Shard "model-00002-of-00002.safetensors" is missing'):
        swarm(experts, UTILITY, tmp_path / "out", plan=PLAN)
    assert files_in(tmp_path) == {"a", "b", "c"}


def test_an_output_without_permission(
    tmp_path: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module.os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="permission is denied"):
        swarm(experts, UTILITY, tmp_path / "out", plan=PLAN)
    assert files_in(tmp_path) == {"a", "b"}


def test_particles_without_a_place(
    tmp_path: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def full(self: Path, *arguments: Any, **options: Any) -> None:
        if self.name == "particles":
            raise OSError(errno.ENOSPC, "No space left on device")
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(CoolfusionError, match=r"Particles cannot be written .*No space left"):
        swarm(experts, UTILITY, tmp_path / "out", plan=PLAN)
    assert files_in(tmp_path / "out") == {"evaluations.jsonl"}


def test_a_disk_that_is_full_when_the_search_is_over(
    tmp_path: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = folder_module.shutil.disk_usage(tmp_path)

    def fill(progress: SwarmProgress) -> None:
        if progress.done == progress.total:
            less = usage._replace(free=100)
            monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda path: less)

    with pytest.raises(UsageError, match="GB free and the merge takes"):
        swarm(experts, UTILITY, tmp_path / "out", plan=PLAN, progress=fill)
    assert files_in(tmp_path / "out") == {"evaluations.jsonl"}
    monkeypatch.undo()
    assert swarm(experts, UTILITY, tmp_path / "out", plan=PLAN).num_new == 0


def test_a_report_that_cannot_be_written(
    tmp_path: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        if self.name == "search.svg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(CoolfusionError, match=r"The report cannot be written .*No space left"):
            swarm(experts, UTILITY, tmp_path / "out", plan=PLAN)
    assert tensors_of(tmp_path / "out" / "best")
    assert swarm(experts, UTILITY, tmp_path / "out", plan=PLAN).num_new == 0
