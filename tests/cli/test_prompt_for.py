"""A prompt per source on the command line, and in files of rows and tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import QUESTION, Run

OTHER = "Ann has 5 pens. How many pens does Ann have?"


@pytest.fixture
def two(models: dict[str, Path]) -> list[object]:
    return ["-m", models["sums"], "-m", models["groups"], "--max-new-tokens", 8]


def text_of(run: Run, two: list[object], *arguments: object) -> str:
    got = run("generate", *two, "--json", *arguments)
    assert got.code == 0, got.err
    return str(json.loads(got.out)["text"])


def test_own_prompts_replace_the_common_one(run: Run, two: list[object]) -> None:
    common = text_of(run, two, QUESTION)
    own = ("--prompt-for", f"sums={QUESTION}", "--prompt-for", f"groups={QUESTION}")
    assert text_of(run, two, *own) == common
    assert text_of(run, two, OTHER, *own) == common
    assert text_of(run, two, QUESTION, *own[:2]) == common
    raw = text_of(run, two, "--raw", QUESTION)
    assert text_of(run, two, "--raw", *own) == raw


def test_traces_record_them(run: Run, two: list[object], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    text_of(run, two, QUESTION, "--raw", "--prompt-for", f"groups={OTHER}", "--trace", trace)
    start = json.loads(trace.read_text().splitlines()[0])
    assert start["prompt"] == {"sums": QUESTION, "groups": OTHER}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-for", "sums"], "write NAME=TEXT"),
        (["--prompt-for", "=text"], "write NAME=TEXT"),
        (["--prompt-for", "sums= "], "write NAME=TEXT"),
        (["--prompt-for", "sums=a", "--prompt-for", "sums=b"], "two prompts"),
        (["--prompt-for", "sums=a"], 'no prompt for source "groups"'),
        (["prompt", "--prompt-for", "money=a"], 'prompt for "money", but no such source'),
        (["--input", "rows.jsonl", "--prompt-for", "sums=a"], "prompts"),
    ],
)
def test_what_cannot_be_done(
    run: Run, two: list[object], arguments: list[str], message: str
) -> None:
    got = run("generate", *two, *arguments)
    assert got.code == 2
    assert message in got.err


def test_rows_have_prompts_of_their_own(run: Run, two: list[object], tmp_path: Path) -> None:
    rows: list[Any] = [
        {"id": "common", "prompt": QUESTION},
        {"id": "own", "prompts": {"sums": QUESTION, "groups": QUESTION}},
        {"id": "beside", "prompt": QUESTION, "prompts": {"groups": QUESTION}},
        {"id": "chat", "prompts": {"*": [{"role": "user", "content": QUESTION}]}},
        {"id": "missing", "prompts": {"sums": QUESTION}},
        {"id": "unknown", "prompt": QUESTION, "prompts": {"money": QUESTION}},
    ]
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("generate", *two, "--input", path, "--output", out).code == 1
    answers = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert len({answers[name]["text"] for name in ("common", "own", "beside", "chat")}) == 1
    assert 'no prompt for source "groups"' in answers["missing"]["error"]
    assert '"money"' in answers["unknown"]["error"]


@pytest.mark.parametrize(
    "row", [{"prompts": []}, {"prompts": {}}, {"prompts": {"a": 3}}, {"prompts": {"a": [3]}}]
)
def test_rows_that_are_none(run: Run, two: list[object], tmp_path: Path, row: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    got = run("generate", *two, "--input", path)
    assert got.code == 2
    assert "line 1" in got.err


def test_tasks_have_prompts_of_their_own(run: Run, two: list[object], tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    rows = [
        {"prompts": {"sums": QUESTION, "groups": OTHER}, "reference": "5"},
        {"prompt": QUESTION, "prompts": {"groups": OTHER}, "reference": "5"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = run("eval", *two, "--task", path, "--systems", "fusion", "--metric", "contains", "--json")
    assert got.code == 0, got.err
    report = json.loads(got.out)
    assert report["num_used"] == 2 if "num_used" in report else report
