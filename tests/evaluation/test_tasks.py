"""Tasks and metrics, with everything that can be wrong in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from coolfusion import UsageError
from coolfusion.evaluation import make_task, metric_named, read_task
from coolfusion.evaluation.metrics import MetricError, extractor, last_number
from coolfusion.evaluation.plan import row_metrics
from coolfusion.evaluation.tasks import Row


def row(*references: str) -> Row:
    return Row("r", "asked", references, place='"f" line 1')


def test_a_file_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    messages = [{"role": "user", "content": "How many?", "extra": 1}]
    rows = [
        {"prompt": "2 + 3 =", "reference": 5},
        {"id": "b", "messages": messages, "reference": ["7", "seven"], "metric": "contains"},
        {"id": 9, "prompt": "one\u2028line", "reference": "x"},
    ]
    path.write_text("\n".join(json.dumps(each) for each in rows[:2]) + "\n\n" + json.dumps(rows[2]))
    task = read_task(path)
    assert task.name == "some"
    assert [each.id for each in task.rows] == [0, "b", 9]
    assert [each.references for each in task.rows] == [("5",), ("7", "seven"), ("x",)]
    assert task.rows[1].prompt == messages  # with fields that templates may know
    assert task.rows[1].metric == "contains"
    assert task.rows[2].place.endswith("line 4")
    assert task.first(2).rows == task.rows[:2]
    assert task.first(None) == task
    assert make_task("some", rows).rows[0].references == ("5",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("3", "a row is a text, or an object"),
        ('"a"', 'no "reference"'),
        ('{"prompt": "a"}', 'no "reference"'),
        ('{"prompt": "a", "reference": null}', 'no "reference"'),
        ('{"prompt": "a", "reference": ""}', '"reference"'),
        ('{"prompt": "a", "reference": []}', '"reference"'),
        ('{"prompt": "a", "reference": true}', '"reference"'),
        ('{"prompt": "a", "reference": " "}', "not blank"),
        ('{"prompt": "a", "reference": NaN}', "finite"),
        ('{"prompt": "a", "reference": ["b", "\\ud800"]}', "encoded"),
        ('{"prompt": "a", "refrence": "b"}', 'the key "refrence"'),
        ('{"prompt": "a", "reference": "b", "metirc": "contains"}', 'the key "metirc"'),
        ('{"reference": "a"}', 'either a "prompt" or "messages"'),
        ('{"prompt": "a", "messages": [], "reference": "a"}', 'either a "prompt" or "messages"'),
        ('{"prompt": "", "reference": "a"}', '"prompt"'),
        ('{"prompt": 3, "reference": "a"}', '"prompt"'),
        ('{"messages": [], "reference": "a"}', '"messages"'),
        ('{"messages": [{"role": "user"}], "reference": "a"}', '"content"'),
        ('{"id": [], "prompt": "a", "reference": "a"}', '"id"'),
        ('{"id": true, "prompt": "a", "reference": "a"}', '"id"'),
        ('{"metric": 1, "prompt": "a", "reference": "a"}', '"metric"'),
        ('{"id": "x", "prompt": "a", "reference": "a"}', "line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"id": "x", "prompt": "fine", "reference": "a"}\n\n' + line + "\n")
    with pytest.raises(UsageError, match="line 3") as caught:
        read_task(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_keys_and_great_numbers_are_fine() -> None:
    rows = [
        {"prompt": "a", "reference": 10**400, "skill": "sums", "source": "a book"},
        {"prompt": "a", "reference": 0.5, "metric": "contains", "metrics": ["bleu"]},
    ]
    task = make_task("t", rows)
    assert [each.references for each in task.rows] == [(str(10**400),), ("0.5",)]
    assert [each.metric for each in task.rows] == [None, "contains"]


def test_files_that_are_no_task(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read_task(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="no rows"):
        read_task(tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(UsageError, match="not UTF-8 at byte 15"):
        read_task(tmp_path / "latin")
    with pytest.raises(UsageError, match="limit of rows is 0"):
        make_task("t", [{"prompt": "a", "reference": "b"}]).first(0)


def test_digests_tell_what_is_asked() -> None:
    first, second = Row(0, "a", ("x",)), Row(0, "b", ("x",))
    assert first.digest() != second.digest()
    assert first.digest() == Row(1, "a", ("y",)).digest()
    assert first.digest(with_references=True) != Row(0, "a", ("y",)).digest(with_references=True)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("1,250.50 dollars", "1250.5"),
        ("from 3-2", "2"),
        ("it is -7", "-7"),
        ("it is \u22127!", "-7"),
        ("12,3456", "3456"),
        ("x5", "5"),
        ("2.0", "2"),
        ("-0", "0"),
        ("100", "100"),
        ("1e5?", "5"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("name", "answer", "references", "value"),
    [
        ("exact_match", " 5\n", ("5",), 1),
        ("exact_match", "5.", ("5",), 0),
        ("exact_match", "seven", ("7", "seven"), 1),
        (r"exact_match:answer is (\d+)", "answer is 3, no, the answer is 5.", ("5",), 1),
        (r"exact_match:answer is (\d+)", "5", ("5",), 0),
        (r"exact_match:#### (\d+)", "#### 8", ("sums\n#### 8",), 1),
        (r"exact_match:\d+", "a 5", ("5",), 1),
        ("last_number", "3 + 2 = 5.0", ("5",), 1),
        ("last_number", "3 + 2", ("5",), 0),
        ("last_number", "no", ("5",), 0),
        ("last_number", "#### 1,000", ("it is 1000",), 1),
        ("contains", "It is Paris, France.", ("paris",), 1),
        ("contains", "15 apples", ("5",), 0),
        ("contains", "a (b) c", ("(b)",), 1),
    ],
)
def test_values(name: str, answer: str, references: tuple[str, ...], value: float) -> None:
    assert metric_named(name).value(row(*references), answer) == value


@pytest.fixture
def own_metrics() -> Iterator[str]:
    module = ModuleType("own_metrics_of_a_test")
    module.length = lambda answer, reference: len(answer)  # type: ignore[attr-defined]
    module.agrees = lambda answer, reference: answer == reference  # type: ignore[attr-defined]
    module.falls = lambda answer, reference: 1 / 0  # type: ignore[attr-defined]
    module.words = lambda answer, reference: "good"  # type: ignore[attr-defined]
    module.nothing = lambda answer, reference: float("nan")  # type: ignore[attr-defined]
    module.same = lambda answer, reference: np.bool_(answer == reference)  # type: ignore[attr-defined]
    module.leaves = lambda answer, reference: sys.exit(3)  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


def test_a_function_of_your_own(own_metrics: str) -> None:
    assert metric_named(f"{own_metrics}:length").value(row("x"), "four") == 4.0
    assert metric_named(f"{own_metrics}:agrees").value(row("x", "y"), "y") == 1.0
    assert metric_named(f"{own_metrics}:same").value(row("x", "y"), "y") == 1.0
    wrong = {
        "falls": "ZeroDivisionError",
        "leaves": "SystemExit: 3",
        "words": "'good'",
        "nothing": "nan",
    }
    for name, said in wrong.items():
        with pytest.raises(MetricError, match=said) as caught:
            metric_named(f"{own_metrics}:{name}").value(row("x"), "four")
        assert "row 'r' (\"f\" line 1)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bleu", "no metric"),
        ("exact_match:(", "no regular expression"),
        ("no_such_module:f", "cannot be imported"),
        ("json:no_such_function", "cannot be imported"),
        ("json:__name__", "not a function"),
        (":f", "cannot be imported"),
        (".json:loads", "cannot be imported"),
    ],
)
def test_metrics_that_do_not_exist(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        metric_named(name)


def test_a_module_that_raises_is_no_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_metrics_of_a_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        metric_named("raising_metrics_of_a_test:f")


def test_a_metric_needs_a_fitting_reference() -> None:
    with pytest.raises(MetricError, match="holds no number"):
        metric_named("last_number").value(row("none"), "5")
    with pytest.raises(MetricError, match="judges log-likelihoods"):
        metric_named("perplexity").value(row("none"), "5")
    assert extractor("x(a)?")("x") is None


def test_rows_have_metrics_of_their_own() -> None:
    rows = [
        {"prompt": "a", "reference": "b"},
        {"prompt": "c", "reference": "d", "metric": "contains"},
    ]
    chosen = row_metrics(make_task("t", rows), "last_number")
    assert [metric.name for metric in chosen.values()] == ["last_number", "contains"]
    with pytest.raises(UsageError, match="row 1 is measured by contains"):
        row_metrics(make_task("t", rows), "perplexity")
    rows[1]["metric"] = "bleu"
    with pytest.raises(UsageError, match='row 1: There is no metric "bleu"'):
        row_metrics(make_task("t", rows), "last_number")
