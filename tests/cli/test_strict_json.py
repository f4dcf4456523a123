"""JSON that commands write is strict, whatever stands in it, and is read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.cli.rows import AnswerFile, Printed
from coolfusion.cli.tasks import show_report
from coolfusion.config.file import read_fusion_file, write_fusion_file
from coolfusion.config.options import FusionConfig
from coolfusion.documents import json_text, number_from
from coolfusion.errors import UsageError
from coolfusion.evaluation import Record, as_dict, as_markdown
from coolfusion.evaluation.records import Outcome
from coolfusion.swarm.log import Evaluation, SwarmLog, evaluation_dict, evaluation_from
from coolfusion.swarm.report import write_report
from coolfusion.trace import TraceWriter, read_trace, write_trace
from coolfusion.tuning import as_dict as tuning_dict
from coolfusion.types import Candidate, Generation, SkippedSource, Step, StopReason, Usage
from tests.evaluation.test_report import REPORT
from tests.swarm.test_report import RESULT
from tests.test_documents import TEXTS, strict
from tests.tuning.test_report import REPORT as TUNING

NUMBERS = st.floats()
NOT_NAN = st.floats(allow_nan=False)
# One character of two halves is read back as one.
NAMES = st.text(st.characters(exclude_categories=()), max_size=6).filter(
    lambda text: (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") == text
        or not any("\ud800" <= char <= "\udbff" for char in text)
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


def lines_of(path: Path) -> list[Any]:
    return [strict(line) for line in path.read_text("utf-8").split("\n")[:-1]]


@st.composite
def outcomes(draw: Any) -> Outcome:
    name = draw(NAMES)
    likelihoods = tuple(draw(st.lists(NUMBERS, max_size=3)))
    value = draw(st.none() | NUMBERS)
    return Outcome(
        *(name, name, "digest", name, StopReason.LENGTH, likelihoods, value, draw(NAMES)),
        num_forwarded={name: draw(NUMBERS)},
        seconds=draw(NUMBERS),
        wins={name: 1},
    )


@given(outcomes())
def test_outcomes(folder: Path, outcome: Outcome) -> None:
    path = folder / "record.jsonl"
    path.unlink(missing_ok=True)
    name, seconds, count = outcome.system, outcome.seconds, dict(outcome.num_forwarded)
    settings = {"number": seconds, name: [count, name]}
    with Record(path, settings) as record:
        record.add(outcome)
    lines_of(path)
    with Record(path, settings) as record:
        assert repr(record.outcomes) == repr({(name, name): outcome})


@given(st.lists(NUMBERS, max_size=3), NOT_NAN, NUMBERS, st.none() | NAMES)
def test_evaluations(
    folder: Path, parts: list[float], utility: float, seconds: float, failure: str | None
) -> None:
    path = folder / "evaluations.jsonl"
    path.unlink(missing_ok=True)
    evaluation = Evaluation((0.25, math.pi), utility, tuple(parts), failure, seconds)
    with SwarmLog(path, {"share": seconds}) as log:
        log.add(evaluation)
    lines_of(path)
    with SwarmLog(path, {"share": seconds}) as log:
        assert repr(log.evaluations) == repr({evaluation.point: evaluation})
    answer = strict(json_text(evaluation_dict(evaluation)))  # between a search and its worker
    assert repr(evaluation_from(answer)) == repr(evaluation)


@given(NAMES, NUMBERS, st.none() | NOT_NAN, st.none() | st.lists(NUMBERS, max_size=3))
def test_traces(
    folder: Path, name: str, seconds: float, cost: float | None, numbers: list[float] | None
) -> None:
    found = None if numbers is None else tuple(numbers)
    candidate = Candidate(name, True, (name,), found, (1, 2), cost)
    gone = (SkippedSource(name, name),)
    step = Step(
        0, name, name, (name,), (candidate,), 0, True, found, gone, gone, (Usage(),), seconds
    )
    whole = Generation(name, StopReason.END, None, (name,), (step,))
    path = folder / "trace.jsonl"
    write_trace(path, [whole], {"prompt": name, "own": seconds})
    lines_of(path)
    assert repr(read_trace(path)) == repr([whole])


@given(NUMBERS, TEXTS)
def test_reports(folder: Path, number: float, name: str) -> None:
    first, *others = REPORT.results
    odd = replace(first, name=name, mean=number, interval=(number, -number), seconds=number)
    strict(json_text(as_dict(replace(REPORT, task=name, results=(odd, *others)))))
    trial = replace(TUNING.trials[0], score=number, num_forwarded=number)
    strict(json_text(tuning_dict(replace(TUNING, task=name, trials=(trial,)))))
    alone = (replace(RESULT.alone[0], parts=(number,), seconds=number), RESULT.alone[1])
    write_report(replace(RESULT, measures=(name, "b"), experts=(name, "c"), alone=alone), folder)
    data = strict((folder / "report.json").read_text("utf-8"))
    assert repr(number_from(data["alone"][0]["seconds"])) == repr(number)
    (folder / "report.md").read_bytes().decode("utf-8")


def test_what_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    odd = {"id": 1, "mine": [math.inf, -math.inf, math.nan, {"deep": 1e999}]}
    Printed().add(odd)
    assert strict(capsys.readouterr().out)["mine"] == ["inf", "-inf", None, {"deep": "inf"}]
    for as_json in (True, False):
        report = replace(REPORT, task="\ud800")
        forms = as_dict(report), "text", as_markdown(report)
        show_report(*forms, as_json=as_json, folder=tmp_path)
        strict((tmp_path / "report.json").read_text("utf-8"))
        printed = capsys.readouterr().out
        assert strict(printed) if as_json else printed == "text\n"


def test_answers_carry_what_json_lacks_as_text(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    record = {
        "id": "\ud800",
        "asked": "0123456789abcdef",
        "mine": [math.inf, math.nan],
        "settings": {},
    }
    with AnswerFile(str(path), {}) as output:
        output.add(record)
    assert lines_of(path) == [{**record, "mine": ["inf", None]}]
    with AnswerFile(str(path), {}) as output:
        assert output.errors == {"\ud800": False}


def test_lines_of_thousands_of_brackets_are_nobodys(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"id": 1, "asked": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        path = tmp_path / "out.jsonl"
        path.write_text(text + "\n")
        with pytest.raises(UsageError, match="was not written by an earlier run"):
            AnswerFile(str(path), {})
        assert path.read_text() == text + "\n"
        with pytest.raises(UsageError, match="is not a trace"):
            read_trace(path)


@given(st.lists(TEXTS.filter(bool), min_size=2, max_size=2, unique=True), st.floats(1e-300, 1e300))
def test_fusion_files(folder: Path, names: list[str], weight: float) -> None:
    weights = {names[0]: weight, names[1]: 0.1 + 0.2}
    config = FusionConfig(models=("a/x", "b/y"), names=tuple(names), weights=weights)
    path = folder / "fusion.toml"
    path.write_text("kept")
    if any("\ud800" <= char <= "\udfff" for name in names for char in name):
        with pytest.raises(UsageError, match="half a character"):
            write_fusion_file(path, config)
        assert path.read_text() == "kept"
    else:
        write_fusion_file(path, config)
        assert read_fusion_file(path) == config


def test_a_trace_holds_nothing_that_json_lacks(tmp_path: Path) -> None:
    with (tmp_path / "t").open("w", encoding="utf-8") as file:
        TraceWriter(file).start(["\ud800"], [{"role": "user", "content": math.nan}])
    assert json.loads((tmp_path / "t").read_bytes())["prompt"][0]["content"] is None
