"""``coolfusion tune`` and ``--config``: from rows to a file that every command accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coolfusion import FusionModel
from coolfusion.config.file import read_fusion_file, write_fusion_file
from coolfusion.config.options import FusionConfig
from coolfusion.evaluation import Record
from tests.cli.conftest import QUESTION, Run

ROWS: list[Any] = [
    {"id": "tom", "prompt": QUESTION, "reference": 5},
    {"messages": [{"role": "user", "content": "Bo has 2 hats and buys 1."}], "reference": "3"},
    {"prompt": "Ann has 4 pens and buys 3 more. How many pens does Ann have?", "reference": 7},
]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "hats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def command(models: dict[str, Path], task: Path, tmp_path: Path) -> list[object]:
    return [
        *("tune", "--task", task, "-m", models["sums"], "-m", models["groups"]),
        *("--metric", "last_number", "--max-new-tokens", 12, "--output", tmp_path / "tuned"),
    ]


@pytest.fixture
def config(models: dict[str, Path], tmp_path: Path) -> Path:
    """A fusion file that no default agrees with."""
    file = tmp_path / "fusion.toml"
    paths = (str(models["sums"]), str(models["money"]))
    write_fusion_file(
        file,
        FusionConfig(
            models=paths,
            names=("plus", "coins"),
            reranker="mixture",
            boundary="phrases(2)",
            weights={"plus": 1.0, "coins": 3.0},
        ),
    )
    return file


def test_an_interrupted_run_goes_on_to_files_that_commands_accept(
    run: Run, command: list[object], tmp_path: Path, models: dict[str, Path]
) -> None:
    folder, original = tmp_path / "tuned", Record.add
    vary = ("--search", "grid", "--vary", "boundary", "words", "whole_response")

    def interrupted(self: Record, outcome: Any) -> None:
        if len(self.outcomes) == 4:
            raise KeyboardInterrupt
        original(self, outcome)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Record, "add", interrupted)
        assert run(*command, *vary).code == 130
    kept = (folder / "trials.jsonl").read_bytes()
    assert kept.count(b"\n") == 5

    got = run(*command, *vary)
    assert got.code == 0, got.err
    assert (folder / "trials.jsonl").read_bytes().startswith(kept)
    assert "hats: last_number; grid search, 2 trials, 1 tuning rows, 2 held out" in got.out
    for name in ("sums", "groups", "untuned", "trial 2", "(chosen)"):
        assert name in got.out
        assert name in (folder / "report.md").read_text()
    assert "trial 0 of 2: best last_number so far" in got.err
    whole = json.loads((folder / "report.json").read_text())
    assert len(whole["trials"]) == 2
    written = read_fusion_file(folder)
    assert written.models == (str(models["sums"]), str(models["groups"]))
    assert written.names == ("sums", "groups")

    answers = (folder / "trials.jsonl").read_bytes()
    again = run(*command, *vary, "--json")
    assert json.loads(again.out)["trials"] == whole["trials"]
    assert (folder / "trials.jsonl").read_bytes() == answers
    other = run(*command, "--raw")
    assert other.code == 2
    assert "raw was False and is True now" in other.err

    said = run("generate", QUESTION, "--config", folder / "fusion.toml", "-q", "--json")
    assert json.loads(said.out)["sources"] == ["sums", "groups"]


def test_a_file_says_what_options_would(run: Run, config: Path) -> None:
    short = (QUESTION, "--max-new-tokens", 16, "--json")
    fusion = FusionModel.from_pretrained(config)
    chat: Any = [{"role": "user", "content": QUESTION}]
    for named in (("--config", config), ("-m", config)):
        got = json.loads(run("generate", *short, *named).out)
        assert got["sources"] == ["plus", "coins"]
        assert got["text"] == fusion.generate(chat, max_new_tokens=16).text


def test_options_replace_what_a_file_says(
    run: Run, config: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[Any] = []
    original = FusionModel.__init__

    def noted(self: FusionModel, *arguments: Any, **given: Any) -> None:
        original(self, *arguments, **given)
        recipes.append((self.decoder.recipe, [source.name for source in self.sources]))

    monkeypatch.setattr(FusionModel, "__init__", noted)
    short = ("generate", QUESTION, "--max-new-tokens", 1, "--json", "--config", config)
    assert run(*short, "--boundary", "lines").code == 0
    assert run(*short, "--lead", "coins").code == 0
    others = ("-m", models["groups"], "-m", models["sums"], "--names", "coins,plus")
    assert run(*short, *others).code == 0
    assert [names for _, names in recipes] == [["plus", "coins"]] * 2 + [["coins", "plus"]]
    (lined, led, moved) = (recipe for recipe, _ in recipes)
    assert (lined.boundary.name, lined.weights) == ("lines", {"plus": 1, "coins": 3})
    assert (led.boundary.name, led.weights) == ("phrases(2)", {"coins": 1})
    assert (moved.boundary.name, moved.weights) == ("phrases(2)", {"plus": 1, "coins": 3})


def test_other_commands_take_a_file(run: Run, config: Path, task: Path) -> None:
    got = run("inspect", "--text", "One two three four.", "--json", "--config", config)
    report = json.loads(got.out)
    assert list(report["tokens"]) == ["plus", "coins"]
    assert [cut["position"] for cut in report["cuts"]] == [7]
    got = run("inspect", "--text", "One two.", "--json", "--config", config, "--boundary", "words")
    assert [cut["position"] for cut in json.loads(got.out)["cuts"]] == [3]
    got = run(
        *("eval", "--task", task, "--config", config, "--metric", "last_number", "--json"),
        *("--systems", "fusion", "--max-new-tokens", 8),
    )
    assert [each["name"] for each in json.loads(got.out)["results"]] == ["plus", "coins", "fusion"]


def test_perplexity_by_swarm_from_a_file(
    run: Run, config: Path, task: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    got = run(
        *("tune", "--task", task, "--config", config, "--metric", "perplexity"),
        *("--search", "swarm", "--trials", 6, "--output", folder),
    )
    assert got.code == 0, got.err
    assert "lower is better; swarm search, 6 trials" in got.out
    written = read_fusion_file(folder)
    assert (written.names, written.reranker) == (("plus", "coins"), "mixture")
    assert written.boundary == "phrases(2)"


def test_a_metric_that_raises_names_its_row_and_keeps_the_work(
    run: Run, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tune_metric_of_a_test.py").write_text(
        "def metric(answer, reference):\n    return 1 / (int(reference) - 3)\n"
    )
    got = run(
        *(*command, "--metric", "tune_metric_of_a_test:metric", "--held-out", 0),
        *("--search", "grid", "--vary", "boundary", "words", "lines"),
    )
    assert got.code == 1
    assert "row 1" in got.out
    assert "ZeroDivisionError" in got.out
    assert (tmp_path / "tuned" / "fusion.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--metric", "bleu"], '"bleu"'),
        (["--search", "dice"], '"dice"'),
        (["--trials", "0"], "number of trials is 0"),
        (["--search", "grid", "--trials", "3"], "more than the 3 trials"),
        (["--vary", "colour"], 'no knob "colour"'),
        (["--vary", "boundary", "verses"], '"verses"'),
        (["--search", "swarm", "--vary", "gate"], "A swarm moves through weights"),
        (["--held-out", "1"], "held-out share is 1"),
        (["--show", "0"], "trials shown is 0"),
        (["--limit", "0"], "limit of rows is 0"),
        (["--limit", "1"], "cannot be tuned on and held out"),
        (["--seed=-1"], "seed is -1"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--drafter", "x"], "--drafter"),
        (["--raw", "--system", "Be brief."], "--system"),
        (["--output", "/nowhere/at/all"], "no folder"),
        (["--weights", "1,2,3"], "3 entries for 2"),
        (["--reranker", "dice"], '"dice"'),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_mistakes_end_with_a_message(
    run: Run, command: list[object], arguments: list[str], said: str, tmp_path: Path
) -> None:
    got = run(*command, *arguments)
    assert got.code == 2
    assert said in got.err
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("line", ["{", '{"prompt": "a"}', '{"reference": "a"}', "3"])
def test_a_bad_row_is_named(run: Run, command: list[object], task: Path, line: str) -> None:
    with task.open("a") as file:
        file.write(line + "\n")
    got = run(*command)
    assert got.code == 2
    assert f'"{task}" line 4' in got.err


def test_a_bad_key_is_named(run: Run, command: list[object], tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('rerankr = "mixture"\n')
    for arguments in (("generate", "Hi"), ("inspect", "--text", "Hi"), command):
        got = run(*arguments, "--config", file)
        assert got.code == 2
        assert f'"{file}": there is no key "rerankr". Did you mean reranker?' in got.err


def test_an_output_that_is_something_else_is_left_alone(
    run: Run, command: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "trials.jsonl").write_text("my novel")
    assert run(*command).code == 2
    assert (folder / "trials.jsonl").read_text() == "my novel"
    assert not (folder / "fusion.toml").exists()
