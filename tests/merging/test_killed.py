"""Merges that are killed: what they leave is no checkpoint, and the next merge clears it away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import coolfusion
from coolfusion.errors import CoolfusionError, LoadError, UsageError
from coolfusion.merging import Merge, MergeProgress, merge, stored
from coolfusion.merging import folder as folder_module
from tests.checkpoints import tensors_of, write_llama

ROOT = Path(coolfusion.__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_llama(tmp_path / "a", 1), write_llama(tmp_path / "b", 2)


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name not in ("a", "b"))


def killed(tmp_path: Path, models: tuple[Path, ...], *, when: str, overwrite: bool = False) -> None:
    """Merge in a process that kills itself; ``when`` is what it runs before, and says the moment."""
    code = f"""
import os, signal
from pathlib import Path
from coolfusion.merging import Merge, merge
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def progress(done):
    pass
{when}
merge(Merge("linear", {tuple(map(str, models))!r}), {str(tmp_path / "out")!r},
      max_shard_bytes=100, progress=progress, overwrite={overwrite})
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL


MIDWAY = """
def progress(done):
    if done.num_tensors == 6:
        die()
"""
# With "before" and "after" the last of two renames: what was there stands aside at that moment.
RENAMING = """
rename = Path.rename
def mortal(self, target):
    if self.name == "new" and {before}:
        die()
    rename(self, target)
    if self.name == "new":
        die()
Path.rename = mortal
"""


def test_the_next_merge_removes_what_a_killed_one_left(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    killed(tmp_path, pair, when=MIDWAY)
    (partial,) = left_over(tmp_path)
    assert partial.startswith(".out.")
    with pytest.raises(LoadError):  # what is left is hidden, and no checkpoint
        stored.open_stored(tmp_path / partial)
    # Folders of other outputs, and what only looks alike, are not touched.
    others = [".out.partial", ".out.12345678.partial.txt", ".out2.12345678.partial", "out.old"]
    for name in others:
        (tmp_path / name).mkdir()
    assert tensors_of(merge(Merge("linear", pair), tmp_path / "out"))
    assert left_over(tmp_path) == sorted([*others, "out"])


@pytest.mark.parametrize("before", [True, False])
def test_killed_while_it_replaces_an_earlier_merge(
    tmp_path: Path, pair: tuple[Path, Path], before: bool
) -> None:
    output = merge(Merge("linear", pair[:1]), tmp_path / "out")
    earlier = (output / "model.safetensors").read_bytes()
    killed(tmp_path, pair, when=RENAMING.format(before=before), overwrite=True)
    assert output.exists() is not before
    with pytest.raises(UsageError, match="exists and is not empty"):
        merge(Merge("linear", pair[1:]), output)
    assert left_over(tmp_path) == ["out"]
    weights = output / "model.safetensors"
    assert before == (weights.exists() and weights.read_bytes() == earlier)


def test_a_merge_at_work_is_left_alone(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Two merges to one output: the first to finish has it, and nothing is taken from the other."""
    output = tmp_path / "out"
    at_work: list[str] = []

    def meanwhile(progress: MergeProgress) -> None:
        if progress.num_tensors == 5:
            merge(Merge("linear", pair[:1]), output)
            at_work.extend(name for name in left_over(tmp_path) if name != "out")

    with pytest.raises(UsageError, match="exists and is not empty"):
        merge(Merge("linear", pair), output, progress=meanwhile)
    assert len(at_work) == 1
    assert left_over(tmp_path) == ["out"]
    assert tensors_of(output).keys() == tensors_of(pair[0]).keys()


def test_a_folder_taken_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, failures = folder_module._locked, [BlockingIOError, FileNotFoundError]

    def unlucky(folder: Path) -> AbstractContextManager[None]:
        if failures:
            folder.rmdir()
            raise failures.pop()
        return lock(folder)

    monkeypatch.setattr(folder_module, "_locked", unlucky)
    with folder_module.new_folder(tmp_path / "out") as new:
        assert left_over(tmp_path) == [new.parent.name]
    assert left_over(tmp_path) == ["out"]
    assert failures == []


def test_without_locks_nothing_is_removed(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: Any) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(folder_module.fcntl, "flock", unable)
    (tmp_path / ".out.12345678.partial").mkdir()
    output = merge(Merge("linear", pair[:1]), tmp_path / "out")
    merge(Merge("linear", pair), output, overwrite=True)
    assert left_over(tmp_path) == [".out.12345678.partial", "out"]


def test_leftovers_that_cannot_be_removed_are_no_obstacle(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, link = tmp_path / ".out.12345678.partial", tmp_path / ".out.87654321.partial"
    stale.mkdir()
    link.symlink_to(pair[0])  # no merge made it, and what it leads to is not touched
    remove = folder_module.shutil.rmtree

    def unable(folder: Path, **options: Any) -> None:
        if folder == stale:
            raise PermissionError("no")
        remove(folder, **options)

    monkeypatch.setattr(folder_module.shutil, "rmtree", unable)
    merge(Merge("linear", pair), tmp_path / "out")
    assert left_over(tmp_path) == [stale.name, link.name, "out"]
    assert tensors_of(pair[0])


@pytest.mark.parametrize("failure", [OSError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["out", "new"])
def test_a_replacement_that_fails_leaves_the_earlier_merge(
    tmp_path: Path,
    pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    failure: BaseException,
) -> None:
    """Whichever of the two renames fails: what stood aside is brought back."""
    output = merge(Merge("linear", pair[:1]), tmp_path / "out")
    earlier = (output / "model.safetensors").read_bytes()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == name:
            raise failure
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises((CoolfusionError, KeyboardInterrupt)):
            merge(Merge("linear", pair), output, overwrite=True)
    assert left_over(tmp_path) == ["out"]
    assert (output / "model.safetensors").read_bytes() == earlier


def test_what_cannot_be_brought_back_is_kept_for_the_next_merge(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = merge(Merge("linear", pair[:1]), tmp_path / "out")
    earlier = (output / "model.safetensors").read_bytes()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name in ("new", "old"):
            raise OSError("no")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(CoolfusionError):
            merge(Merge("linear", pair), output, overwrite=True)
    assert not output.exists()
    with pytest.raises(UsageError, match="exists and is not empty"):
        merge(Merge("linear", pair), output)
    assert (output / "model.safetensors").read_bytes() == earlier
    assert left_over(tmp_path) == ["out"]


def test_a_merge_is_as_open_to_others_as_any_new_folder(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    (tmp_path / "plain").mkdir()
    output = merge(Merge("linear", pair), tmp_path / "out")
    assert output.stat().st_mode == (tmp_path / "plain").stat().st_mode
