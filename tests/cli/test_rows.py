"""``generate --input``: rows that fail alone, and files that survive being killed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from coolfusion.cli.rows import TAKEN
from coolfusion.decoding.commit import interrupted
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.errors import SourceError
from tests.cli.conftest import QUESTION, Run

ROWS: list[Any] = [
    QUESTION,
    {"id": "b", "prompt": "Ann has 5 pens."},
    {"id": "c", "messages": [{"role": "user", "content": "Bo has 2 hats."}]},
    {"id": 9, "prompt": "How many?"},
]
IDS = [0, "b", "c", 9]


@pytest.fixture
def source(models: dict[str, Path]) -> list[object]:
    return ["generate", "-m", models["sums"], "--max-new-tokens", 8]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> dict[Any, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def test_every_row_is_answered_as_if_alone(run: Run, source: list[object], tmp_path: Path) -> None:
    rows, out = write(tmp_path / "in", ROWS), tmp_path / "out"
    got = run(*source, "--input", rows, "--output", out, "--batch-size", 2)
    assert got.code == 0
    answers = rows_of(out)
    assert set(answers) == set(IDS)
    alone = json.loads(run(*source, "--json", QUESTION).out)
    assert answers[0]["text"] == alone["text"]
    assert answers[0]["stop_reason"] == alone["stop_reason"]
    printed = run(*source, "-q", "--input", rows)
    assert {json.loads(line)["id"] for line in printed.out.splitlines()} == set(IDS)


def test_finished_rows_are_not_run_again(
    run: Run, source: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    earlier = [ROWS[1], {"id": "9", "prompt": "another id"}]
    assert run(*source, "--input", write(tmp_path / "in", earlier), "--output", out).code == 0
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    write(out, [{**row, "text": "kept as it was"} for row in kept])
    rows = write(tmp_path / "in", ROWS)
    assert run(*source, "--input", rows, "--output", out).code == 0
    answers = rows_of(out)
    assert set(answers) == {*IDS, "9"}
    assert answers["b"]["text"] == "kept as it was"
    before = out.read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("there is nothing to load for")

    monkeypatch.setattr("coolfusion.cli.options.load_fusion", never)
    assert run(*source, "--input", rows, "--output", out).code == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "torn",
    [
        '{"i',
        '{"id": "b',
        '{"id": "b", "asked": "0123',
        '{"id": "b", "asked": "0123456789abcdef", "te',
    ],
)
def test_a_torn_last_line_is_cut_off(
    run: Run, source: list[object], tmp_path: Path, torn: str
) -> None:
    out = tmp_path / "out"
    assert run(*source, "--input", write(tmp_path / "in", ROWS[:1]), "--output", out).code == 0
    first = out.read_text()
    out.write_text(first + torn)
    assert run(*source, "--input", write(tmp_path / "in", ROWS[:2]), "--output", out).code == 0
    assert out.read_text().startswith(first)
    assert set(rows_of(out)) == {0, "b"}


@pytest.mark.parametrize("content", ["a\nb\n", '{"id": 1, "text": "x"}\nnotes\n', "[1]\n"])
def test_a_file_of_something_else_is_left_alone(
    run: Run, source: list[object], tmp_path: Path, content: str
) -> None:
    rows, out = write(tmp_path / "in", ROWS), tmp_path / "out"
    out.write_text(content)
    got = run(*source, "--input", rows, "--output", out)
    assert got.code == 2
    assert out.read_text() == content
    assert run(*source, "--input", rows, "--output", rows).code == 2


def test_a_bad_row_fails_alone(run: Run, source: list[object], tmp_path: Path) -> None:
    bad = [QUESTION, "half \ud800", "many words " * 2000, "How many?"]
    rows, out = write(tmp_path / "in", bad), tmp_path / "out"
    got = run(*source, "--input", rows, "--output", out)
    assert got.code == 1
    assert "2 of 4 rows" in got.err
    answers = rows_of(out)
    assert [row for row in answers if "error" in answers[row]] == [1, 2]
    assert "half a character" in answers[1]["error"]
    assert "context window" in answers[2]["error"]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"id": 1}',
        '{"prompt": 3}',
        '{"messages": [{"role": 1}]}',
        '{"id": 0, "prompt": ""}',
        '{"id": 0, "prompt": "twice"}',
        '{"prompt": "a", "text": "b"}',
        '{"prompt": "a", "tempertaure": 3}',
    ],
)
def test_an_unreadable_line_stops_before_any_work(
    run: Run, source: list[object], tmp_path: Path, line: str
) -> None:
    rows, out = tmp_path / "in", tmp_path / "out"
    rows.write_text(f'"fine"\n\n{line}\n')
    got = run(*source, "--input", rows, "--output", out)
    assert got.code == 2
    assert str(rows) in got.err
    assert "line 3" in got.err or "id 0" in got.err
    assert not out.exists()


def test_files_that_cannot_be_used(run: Run, source: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "in", ROWS)
    for arguments in (
        ["--input", tmp_path / "none"],
        ["--input", rows, "--output", tmp_path / "none" / "out"],
        ["--input", rows, "--batch-size", 0],
        ["--input", rows, "prompt"],
    ):
        assert run(*source, *arguments).code == 2, arguments


def test_rows_take_options_and_keep_keys_of_their_own(
    run: Run, source: list[object], tmp_path: Path
) -> None:
    own = {"max_new_tokens": 3, "topic": {"a": [1, None]}, "half": "\ud800", "reference": 5}
    given = [
        QUESTION,
        {"prompt": QUESTION, **own},
        {"prompt": QUESTION, "seed": 1, "temperature": 9},
    ]
    rows, out = write(tmp_path / "in", given), tmp_path / "out"
    assert run(*source, "--input", rows, "--output", out).code == 0
    whole, short, warm = (answer for _, answer in sorted(rows_of(out).items()))
    assert {key: short[key] for key in own} == own
    assert whole["text"].startswith(short["text"])
    assert len(short["text"]) < len(whole["text"])
    alone = run(*source, "--json", QUESTION, "--seed", 1, "--temperature", 9)
    assert warm["text"] == json.loads(alone.out)["text"] != whole["text"]
    assert whole.keys() <= TAKEN
    assert {"version", "models", "max_new_tokens"} <= whole["settings"].keys()
    printed = json.loads(run(*source, "--input", rows).out.splitlines()[0])
    assert printed.keys() == rows_of(out)[printed["id"]].keys()


def test_control_c_loses_no_finished_row(
    run: Run, source: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = write(tmp_path / "in", ROWS), tmp_path / "out"
    original = SegmentDecoder.generate_each

    def interrupted(self: SegmentDecoder, *args: Any, **settings: Any) -> Any:
        for number, answer in enumerate(original(self, *args, **settings)):
            if number == 2:
                raise KeyboardInterrupt
            yield answer

    with monkeypatch.context() as patched:
        patched.setattr(SegmentDecoder, "generate_each", interrupted)
        got = run(*source, "--input", rows, "--output", out, "--batch-size", 1)
    assert got.code == 130
    kept = rows_of(out)
    assert len(kept) == 2
    assert run(*source, "--input", rows, "--output", out).code == 0
    answers = rows_of(out)
    assert set(answers) == set(IDS)
    assert all(answers[row] == kept[row] for row in kept)


def test_a_full_disk_is_said(run: Run, source: list[object], tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    rows = write(tmp_path / "in", ROWS)

    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", Full())
        got = run(*source, "--input", rows)
    assert got.code == 1
    assert "No space left" in got.err


def test_a_file_of_one_foreign_line_is_left_alone(
    run: Run, source: list[object], tmp_path: Path
) -> None:
    rows, out = write(tmp_path / "in", ROWS), tmp_path / "out"
    out.write_text("my novel")
    got = run(*source, "--input", rows, "--output", out)
    assert (got.code, out.read_text()) == (2, "my novel")


def test_an_output_that_is_a_folder(run: Run, source: list[object], tmp_path: Path) -> None:
    rows = write(tmp_path / "in", ROWS)
    assert run(*source, "--input", rows, "--output", tmp_path).code == 2


def test_half_a_character_fails_alone(run: Run, source: list[object], tmp_path: Path) -> None:
    rows, out = write(tmp_path / "in", ["lone \ud800", QUESTION]), tmp_path / "out"
    assert run(*source, "--input", rows, "--output", out).code == 1
    assert set(rows_of(out)) == {0, 1}


@pytest.mark.parametrize("line", ['{"id": [], "prompt": "a"}', '{"messages": "hi"}'])
def test_ids_and_messages_have_their_types(
    run: Run, source: list[object], tmp_path: Path, line: str
) -> None:
    rows = tmp_path / "in"
    rows.write_text(line + "\n")
    assert run(*source, "--input", rows).code == 2


def test_line_separators_inside_a_text_split_no_row(
    run: Run, source: list[object], tmp_path: Path
) -> None:
    rows, out = tmp_path / "in", tmp_path / "out"
    rows.write_text(
        '{"id": "a", "prompt": "one\u2028two\u0085three", "note": "a\u2028b"}\n', encoding="utf-8"
    )
    for _ in range(2):
        assert run(*source, "--input", rows, "--output", out).code == 0
    assert out.read_bytes().count(b"\n") == 1


def test_a_failed_row_is_written_once(run: Run, source: list[object], tmp_path: Path) -> None:
    rows, out = write(tmp_path / "in", [QUESTION, "many words " * 2000]), tmp_path / "out"
    for _ in range(2):
        assert run(*source, "--input", rows, "--output", out).code == 1
    assert set(rows_of(out)) == {0, 1}


def test_a_failing_source_ends_its_own_row_and_keeps_the_text_before(
    run: Run, source: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = write(tmp_path / "in", ROWS[:3]), tmp_path / "out"
    whole = tmp_path / "whole"
    assert run(*source, "--input", rows, "--output", whole).code == 0
    wanted = rows_of(whole)
    original = SegmentDecoder.commit
    started: list[Any] = []

    def failing(self: SegmentDecoder, state: Any, step: Any) -> Any:
        started.append(state.sequence_id)
        if state.sequence_id == min(started) and state.num_steps == 1:
            raise interrupted(state, ("sums",), SourceError("it broke"), "sums")
        return original(self, state, step)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentDecoder, "commit", failing)
        got = run(*source, "--on-source-error", "raise", "--input", rows, "--output", out)
    assert got.code == 1
    assert "1 of 3 rows" in got.err
    answers = rows_of(out)
    (failed,) = [row for row in answers if "error" in answers[row]]
    assert answers[failed]["error"] == 'Source "sums": it broke'
    assert answers[failed]["stop_reason"] == "interrupted"
    assert answers[failed]["text"]
    assert wanted[failed]["text"].startswith(answers[failed]["text"])
    for row in answers.keys() - {failed}:
        assert answers[row]["text"] == wanted[row]["text"]
