"""The one log: what was finished is there again, and nothing else is touched."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.documents import json_ready
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.jsonlog import JsonLog

START = r'\{"kind": "point", '
SETTINGS = {"seed": 0, "model": ["a", "b"]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


class Points:
    """What a user of the log keeps: the values of its records."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def take(self, record: dict[str, Any]) -> None:
        if record["kind"] != "point":
            raise ValueError(record["kind"])
        self.values.append(record["value"])


def values_of(path: Path, settings: dict[str, Any] | None = SETTINGS) -> list[Any]:
    points = Points()
    with JsonLog(path, points.take, start=START, settings=settings):
        return points.values


def fill(path: Path, values: list[Any], settings: dict[str, Any] | None = SETTINGS) -> bytes:
    with JsonLog(path, Points().take, start=START, settings=settings) as log:
        for value in values:
            log.append({"kind": "point", "value": value})
    return path.read_bytes()


@given(st.lists(VALUES, max_size=3), st.sampled_from([None, SETTINGS]))
def test_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], settings: dict[str, Any] | None
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    fill(path, values, settings)
    fill(path, values, settings)
    assert values_of(path, settings) == json_ready(values * 2)  # infinities as text
    first = path.read_bytes().split(b"\n")[0]
    if values and settings:
        assert json.loads(first) == {"kind": "run", "settings": settings}


@pytest.mark.parametrize("settings", [None, SETTINGS])
def test_cut_off_anywhere_it_keeps_whole_lines(
    tmp_path: Path, settings: dict[str, Any] | None
) -> None:
    values = ["é\u2028\ud800", -1.5e-7, [True, None, {"k": "\\"}]]
    data = fill(tmp_path / "log", values, settings)
    cut = tmp_path / "cut"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        # A whole line that lacks only its line break is as good as finished.
        ended = data[:length].count(b"\n") + (data[length : length + 1] == b"\n")
        kept = values[: max(0, ended - (settings is not None))]
        assert values_of(cut, settings) == kept, length
        fill(cut, ["more"], settings)
        assert values_of(cut, settings) == [*kept, "more"], length


@pytest.mark.parametrize(
    "last",
    [
        "my novel",
        '{"kind": "points"',
        '{"kind": "point"}',
        '{"kind": "point" , "value',
        '{"value": 1}',
        "{}",
        "[1]",
        "3",
        "\ufeff",
        " ",
    ],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_of_somebody_else_is_never_removed(tmp_path: Path, last: str, end: str) -> None:
    path = tmp_path / "log"
    for before in (b"", fill(path, [1, 2])):
        path.write_bytes(before + (last + end).encode())
        with pytest.raises(
            UsageError, match=r"line \d was not written by an earlier run: it begins"
        ):
            values_of(path)
        assert path.read_bytes() == before + (last + end).encode()


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    data = fill(tmp_path / "log", [1])
    with pytest.raises(UsageError) as caught:
        values_of(tmp_path / "log", {"seed": 1, "stop": ["x"], "model": ["a", "b"]})
    assert "other settings: seed was 0 and is 1 now; stop was not set and is ['x'] now." in str(
        caught.value
    )
    assert (tmp_path / "log").read_bytes() == data
    # What is not set is the same as None: a default that nobody touched.
    assert values_of(tmp_path / "log", {**SETTINGS, "stop": None}) == [1]


def test_settings_can_be_written_before_any_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with JsonLog(path, Points().take, start=START, settings=SETTINGS) as log:
        assert path.read_bytes() == b""
        log.begin()
        log.begin()
    assert path.read_bytes().count(b"\n") == 1
    with pytest.raises(UsageError, match="seed was 0 and is 1 now"):
        values_of(path, {**SETTINGS, "seed": 1})


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX")
def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with JsonLog(path, Points().take, start=START) as log:
        with pytest.raises(UsageError, match=f'Another process is writing "{path}"'):
            values_of(path, None)
        log.append({"kind": "point", "value": 1})
    assert values_of(path, None) == [1]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files is as good as a full disk, and afterwards there is room."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path, value = tmp_path / "log", "long " * 20
    with JsonLog(path, Points().take, start=START, settings=SETTINGS) as log:
        for number in range(2):
            size = path.stat().st_size
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
                with pytest.raises(CoolfusionError, match="What was finished before is kept"):
                    log.append({"kind": "point", "value": value})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert path.stat().st_size == size
            log.append({"kind": "point", "value": number})
    assert values_of(path) == [0, 1]


def write_twice(path: Path, between: Callable[[], object], second: bool = True) -> None:
    """Two records in one log, or one; something happens after the first."""
    with JsonLog(path, Points().take, start=START) as log:
        log.append({"kind": "point", "value": 1})
        between()
        if second:
            log.append({"kind": "point", "value": 2})


def replace_it(path: Path) -> None:
    path.with_name("other").write_bytes(path.read_bytes())
    os.replace(path.with_name("other"), path)


def shorten_it(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, "deleted or replaced"),
        (replace_it, "deleted or replaced"),
        (shorten_it, "changed by another program"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be replaced there")
def test_a_file_that_is_taken_away_is_an_error(tmp_path: Path, change: Any, said: str) -> None:
    for second in (True, False):
        path = tmp_path / f"log {second}"
        with pytest.raises(CoolfusionError, match=said):
            write_twice(path, lambda path=path: change(path), second)


def test_another_error_is_not_hidden(tmp_path: Path) -> None:
    def interrupt() -> None:
        (tmp_path / "log").unlink()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_twice(tmp_path / "log", interrupt)


def test_where_no_log_can_be(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "log", tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="Cannot write"):
            values_of(path)
