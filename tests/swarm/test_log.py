"""The log: nothing that finished is lost, nothing foreign is touched."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.swarm.log import Evaluation, SwarmLog, evaluation_dict, evaluation_from

SETTINGS = {"experts": "abc", "measures": [{"task": "x"}]}
FIRST = Evaluation((0.1, 0.9), 0.5, (0.4, 0.75), None, 1.5)
SECOND = Evaluation((1 / 3, 2 / 3), -math.inf, (), "NaN", 0.25)
REALS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(REALS, min_size=1), REALS | st.just(-math.inf), st.lists(REALS))
def test_numbers_come_back_exactly(point: list[float], utility: float, parts: list[float]) -> None:
    evaluation = Evaluation(tuple(point), utility, tuple(parts), None, 1.0)
    assert evaluation_from(evaluation_dict(evaluation)) == evaluation


def fill(path: Path) -> bytes:
    with SwarmLog(path, SETTINGS) as log:
        log.add(FIRST)
        log.add(SECOND)
    return path.read_bytes()


def test_cut_off_anywhere_it_keeps_whole_lines(tmp_path: Path) -> None:
    data = fill(tmp_path / "log")
    for length in range(0, len(data) + 1, 7):
        path = tmp_path / "cut"
        path.write_bytes(data[:length])
        with SwarmLog(path, SETTINGS) as log:
            kept = data[:length].count(b"\n")
            assert list(log.evaluations.values()) == [FIRST, SECOND][: max(0, kept - 1)]
            log.add(SECOND)
        with SwarmLog(path, SETTINGS) as log:
            assert log.evaluations[SECOND.point] == SECOND
            assert len(log.evaluations) == (2 if kept >= 2 else 1)


@pytest.mark.parametrize("settings", [{**SETTINGS, "experts": "x"}, {"experts": "abc"}, {}])
def test_other_settings_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    data = fill(tmp_path / "log")
    with pytest.raises(UsageError, match=r"other settings: (experts|measures) was"):
        SwarmLog(tmp_path / "log", settings)
    assert (tmp_path / "log").read_bytes() == data


def test_settings_without_evaluations_may_change(tmp_path: Path) -> None:
    """Experts that were mended before anything was evaluated start afresh."""
    with SwarmLog(tmp_path / "log", {"experts": "damaged"}):
        pass
    with SwarmLog(tmp_path / "log", SETTINGS) as log:
        log.add(FIRST)
    with SwarmLog(tmp_path / "log", SETTINGS) as log:
        assert list(log.evaluations) == [FIRST.point]
    assert (tmp_path / "log").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "data",
    [b"hello\n", b"hello", b"{}\n", b'{"kind": "outcome"}\n', b"\xff\n", b"[1]\n"],
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log"
    for before in (b"", fill(path)):
        path.write_bytes(before + data)
        with pytest.raises(UsageError, match="was not written by an earlier run"):
            SwarmLog(path, SETTINGS)
        assert path.read_bytes() == before + data


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX")
def test_one_search_at_a_time(tmp_path: Path) -> None:
    with SwarmLog(tmp_path / "log", SETTINGS) as log:
        with pytest.raises(UsageError, match="Another process"):
            SwarmLog(tmp_path / "log", SETTINGS)
        log.add(FIRST)
    with SwarmLog(tmp_path / "log", SETTINGS) as log:
        assert log.evaluations == {FIRST.point: FIRST}


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files is as good as a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SwarmLog(tmp_path / "log", SETTINGS) as log:
        log.add(FIRST)
        size = (tmp_path / "log").stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
            with pytest.raises(CoolfusionError, match="What was finished before is kept"):
                log.add(SECOND)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert SECOND.point not in log.evaluations
        assert (tmp_path / "log").stat().st_size == size


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot write"):
        SwarmLog(tmp_path / "none" / "log", SETTINGS)
