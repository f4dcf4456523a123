"""``coolfusion eval``: from a file of rows to a table, resumable, on one built-in model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import QUESTION, Run

ROWS: list[Any] = [
    {"id": "tom", "prompt": QUESTION, "reference": 5},
    {"messages": [{"role": "user", "content": "Bo has 2 hats and buys 1."}], "reference": "3"},
]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "hats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def command(models: dict[str, Path], task: Path) -> list[object]:
    return [
        *("eval", "--task", task, "-m", models["sums"], "-m", models["groups"]),
        *("--metric", "last_number", "--max-new-tokens", 24),
    ]


def test_a_table_a_folder_and_a_second_run(
    run: Run, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    got = run(*command, "--output", folder, "--samples", 1)
    assert (got.code, got.err) == (0, "")
    for name in ("sums", "groups", "rerank", "cool_r", "self_consistency(", "majority", "fusion"):
        assert name in got.out
    assert "hats: last_number, 2 rows" in got.out
    whole = json.loads((folder / "report.json").read_text())
    assert [each["name"] for each in whole["results"]][-1] == "fusion"
    assert "| fusion" in (folder / "report.md").read_text()
    answers = (folder / "answers.jsonl").read_bytes()

    again = run(*command, "--output", folder, "--samples", 1)
    assert (again.code, again.out) == (0, got.out)
    assert (folder / "answers.jsonl").read_bytes() == answers
    other = run(*command, "--output", folder, "--samples", 1, "--preset", "paper")
    assert other.code == 2
    assert "preset was 'default' and is 'paper' now" in other.err
    scored = run(*command, "--output", folder, "--samples", 1, "--metric", "perplexity")
    assert scored.code == 2
    assert "outcomes was 'answers' and is 'likelihoods of the references' now" in scored.err
    assert (folder / "answers.jsonl").read_bytes() == answers


def test_json_and_chosen_systems(run: Run, command: list[object]) -> None:
    got = run(*command, "--json", "--systems", "fusion,rerank", "--limit", 1)
    assert got.code == 0
    report = json.loads(got.out)
    assert [each["name"] for each in report["results"]] == ["sums", "groups", "rerank", "fusion"]
    assert report["rows"] == ["tom"]


def test_an_interrupted_run_goes_on(
    run: Run, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coolfusion.evaluation import Record

    folder = tmp_path / "results"
    original = Record.add

    def interrupted(self: Record, outcome: Any) -> None:
        if len(self.outcomes) == 3:
            raise KeyboardInterrupt
        original(self, outcome)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "add", interrupted)
        assert run(*command, "--systems", "fusion", "--output", folder).code == 130
    kept = (folder / "answers.jsonl").read_bytes()
    assert kept.count(b"\n") == 4
    assert run(*command, "--systems", "fusion", "--output", folder).code == 0
    assert (folder / "answers.jsonl").read_bytes().startswith(kept)


def test_a_metric_that_raises_costs_its_row(
    run: Run, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_metric_of_a_test.py").write_text(
        "def metric(answer, reference):\n    return 1 / (int(reference) - 3)\n"
    )
    got = run(*command, "--systems", "fusion", "--metric", "cli_metric_of_a_test:metric")
    assert got.code == 1
    assert "1 of 2 rows have no value" in got.err
    assert "row 1" in got.out
    assert "ZeroDivisionError" in got.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--metric", "bleu"], '"bleu"'),
        (["--metric", "exact_match:("], "regular expression"),
        (["--systems", "dice"], '"dice"'),
        (["--systems", "majority"], "equal compute"),
        (["--limit", "0"], "limit of rows is 0"),
        (["--samples", "0"], "num_samples is 0"),
        (["--sample-temperature", "0"], "--sample-temperature is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--raw", "--system", "Be brief."], "--system"),
        (["--output", "/nowhere/at/all"], "no folder"),
        (["--weights", "1,2,3"], "3 entries for 2"),
        (["--names", "fusion,other"], "name of a system"),
        (["--task", "lm_eval:x", "--systems", "fusion"], "--systems"),
    ],
)
def test_mistakes_end_with_a_message(
    run: Run, command: list[object], arguments: list[str], said: str
) -> None:
    got = run(*command, *arguments)
    assert got.code == 2
    assert said in got.err


@pytest.mark.parametrize("line", ["{", '{"prompt": "a"}', '{"reference": "a"}', "3"])
def test_a_bad_row_is_named(run: Run, command: list[object], task: Path, line: str) -> None:
    with task.open("a") as file:
        file.write(line + "\n")
    got = run(*command)
    assert got.code == 2
    assert f'"{task}" line 3' in got.err


def test_an_output_that_is_something_else_is_left_alone(
    run: Run, command: list[object], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("my novel")
    assert run(*command, "--output", tmp_path / "file").code == 2
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "answers.jsonl").write_text("my novel")
    assert run(*command, "--output", folder).code == 2
    assert (folder / "answers.jsonl").read_text() == "my novel"


def test_the_harness_is_asked_for(run: Run, command: list[object]) -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        got = run(*command, "--task", "lm_eval:arc_easy")
        assert got.code == 2
        assert "coolfusion[harness]" in got.err
