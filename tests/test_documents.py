"""Laws of files and data from outside, and of what is written as JSON."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.documents import (
    MAX_DEPTH,
    MAX_KEY_PARTS,
    check_own_file,
    check_own_files,
    json_text,
    number_from,
    parsed_json,
    parsed_toml,
    read_file,
    shown,
)
from coolfusion.errors import LoadError, UsageError

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # half characters among them
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
)


def strict(text: str) -> Any:
    """The data of text that every JSON reader takes."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text.encode("utf-8"), parse_constant=refuse)


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_what_is_written_is_strict_json(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json_text(value, indent=indent, ascii_only=ascii_only)
    strict(text)
    assert "\n" not in text or indent


@given(st.floats())
def test_numbers_are_read_back(number: float) -> None:
    again = number_from(parsed_json(json_text(number)))
    assert again == number or (math.isnan(again) and math.isnan(number))


def test_numbers_of_other_libraries_are_written() -> None:
    values = [
        np.float32(0.5),
        np.int64(3),
        np.float64(math.inf),
        Fraction(1, 4),
        {math.inf: 1, 2: 3},
    ]
    assert strict(json_text(values)) == [0.5, 3, "inf", 0.25, {"inf": 1, "2": 3}]


def test_what_json_cannot_hold_is_refused_by_name() -> None:
    inside: list[Any] = []
    inside.append(inside)
    for value in (object(), {1, 2}, 10**5000, inside):
        with pytest.raises(UsageError, match="JSON cannot hold"):
            json_text(value)


BRACKETS: list[Callable[[int], str]] = [
    lambda depth: "[" * depth + "]" * depth,
    lambda depth: '{"a":' * depth + "1" + "}" * depth,
    lambda depth: '[{"a":' * (depth // 2) + "1" + "}]" * (depth // 2),
    lambda depth: "[" * depth,
    lambda depth: '{"a":[' * (depth // 2),
]


@pytest.mark.parametrize("nested", BRACKETS)
def test_json_of_any_depth_is_read_or_refused(nested: Callable[[int], str]) -> None:
    for depth in (MAX_DEPTH + 2, 900, 3_000, 100_000):
        with pytest.raises(ValueError, match=r"nested more than|Expecting"):
            parsed_json(nested(depth))
    if nested(2).count("]") or nested(2).count("}"):
        assert json_text(parsed_json(nested(MAX_DEPTH)))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "[" * 5_000 + "]" * 5_000,
        "a = " + "{b = " * 100_000,
        "a = " + "{b = [" * 300 + "]}" * 300,
        "a." * 50_000 + "b = 1",
        "[" + "a." * 50_000 + "b]",
        "[[" + 'a . "b" . ' * 50_000 + "c]]",
        "x = {" + "a." * 50_000 + "b = 1}",
        "[" + ".".join(["a"] * (MAX_KEY_PARTS + 1)) + "]\n[" + ".".join(["b"] * 3_000) + "]",
    ],
)
def test_toml_of_any_depth_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested more than|a key has more than"):
        parsed_toml(text)


def test_toml_within_the_bounds_is_what_it_says() -> None:
    data = parsed_toml(".".join(["a"] * MAX_KEY_PARTS) + " = [[1], {b = 'c.d.e'}]\n# a.b.c\n")
    for _ in range(MAX_KEY_PARTS):
        data = data["a"]
    assert data == [[1], {"b": "c.d.e"}]


def kinds(folder: Path) -> dict[str, Path]:
    """Everything but a regular file that can stand under a name."""
    made = {
        name: folder / name for name in ("pipe", "folder", "dangling", "loop", "none", "to pipe")
    }
    os.mkfifo(made["pipe"])
    made["folder"].mkdir()
    made["dangling"].symlink_to(folder / "nowhere")
    made["loop"].symlink_to(made["loop"])
    made["to pipe"].symlink_to(made["pipe"])
    made["through a file"] = folder / "file" / "x"
    (folder / "file").write_text("{}")
    made["too long"] = folder / ("x" * 5_000)
    made["zero byte"] = folder / "a\0b"
    made["half a character"] = folder / "\ud83d"
    made["device"] = Path("/dev/zero")
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    made["socket"] = folder / "socket"
    return made


def test_nothing_but_a_regular_file_is_read(tmp_path: Path) -> None:
    for name, path in kinds(tmp_path).items():
        with pytest.raises(OSError, match=r".") as caught:
            read_file(path)
        assert caught.value.strerror, name
        if name != "none":
            with pytest.raises(LoadError):
                check_own_file(path.parent, path)


def test_files_of_any_size_are_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(10**10)  # sparse
    with pytest.raises(OSError, match="more than 200,000,000 bytes"):
        read_file(path)
    path.write_bytes(b"12345")
    assert read_file(path, max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_file(path, max_bytes=4)


def test_what_a_shell_hands_over_is_read_where_the_caller_says_so(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)
    try:
        with pytest.raises(OSError, match="named pipe"):
            read_file(f"/dev/fd/{reading}")
        assert read_file(f"/dev/fd/{reading}", streams=True) == b"from a pipe"
    finally:
        os.close(reading)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_file("/dev/zero", max_bytes=1_000, streams=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="named pipe"):
        read_file(tmp_path / "pipe", streams=True)


def cached(folder: Path) -> Path:
    """A checkpoint as the hub's cache has it: links into the blobs of its repository."""
    snapshot = folder / "hub" / "models--org--name" / "snapshots" / "0123abc"
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "9f86d08").write_text("{}")
    (snapshot / "config.json").symlink_to(Path("../../blobs/9f86d08"))
    (snapshot / "sub").mkdir()
    (snapshot / "sub" / "config.json").symlink_to(Path("../../../blobs/9f86d08"))
    return snapshot


def test_links_of_the_hubs_cache_are_a_checkpoints_own(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    check_own_file(snapshot, snapshot / "config.json")
    check_own_file(snapshot / "sub", snapshot / "sub" / "config.json")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "hub")
    moved = tmp_path / "elsewhere" / snapshot.relative_to(tmp_path / "hub")
    check_own_file(moved, moved / "config.json")
    (tmp_path / "current").symlink_to(snapshot)
    check_own_file(tmp_path / "current", tmp_path / "current" / "config.json")


def test_links_out_of_a_checkpoint_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root")
    snapshot = cached(tmp_path)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "own").write_text("{}")
    (folder / "link to own").symlink_to("own")
    check_own_file(folder, folder / "link to own")
    outside = {
        "absolute": secret,
        "relative": Path("../secret"),
        "system": Path("/etc/passwd"),
        "chain": Path("chain 2"),
        "chain 2": Path("../secret"),
        "other cache": snapshot / "config.json",
        "through a folder": Path("up/secret"),
    }
    (folder / "up").symlink_to("..")
    for name, target in outside.items():
        (folder / name).symlink_to(target)
    for name in outside:
        with pytest.raises(LoadError, match="leads out of its checkpoint"):
            check_own_file(folder, folder / name)
    # A repository of somebody's own making has a cache's names, and blobs that are a link.
    forged = tmp_path / "repo" / "snapshots" / "1"
    forged.mkdir(parents=True)
    (tmp_path / "repo" / "blobs").symlink_to("/etc")
    (forged / "config.json").symlink_to("../../blobs/passwd")
    with pytest.raises(LoadError, match="leads out of its checkpoint"):
        check_own_file(forged, forged / "config.json")


def test_files_that_are_not_there_are_no_mistake_and_dangling_links_are(tmp_path: Path) -> None:
    check_own_files(tmp_path, [tmp_path / "none.json"])
    (tmp_path / "gone.json").symlink_to(tmp_path / "none.json")
    with pytest.raises(LoadError, match=r"gone\.json"):
        check_own_files(tmp_path, [tmp_path / "none.json", tmp_path / "gone.json"])


def test_values_in_errors_are_short() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "x" * 10**6, 10**5000, [0] * 10**5):
        assert len(shown(value)) < 250
    assert shown("a") == "'a'"
