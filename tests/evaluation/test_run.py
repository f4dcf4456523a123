"""Runs: what is recorded, resumed and reported, on toy sources."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coolfusion import Request, Sampling, SegmentDecoder, Source, UsageError
from coolfusion.decoding.answers.rerank import rerank_answers
from coolfusion.decoding.answers.vote import majority_vote
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.evaluation import (
    EvaluationPlan,
    Outcome,
    Record,
    Report,
    Task,
    as_dict,
    as_markdown,
    as_text,
    evaluate,
    exact_mcnemar,
    make_task,
)
from coolfusion.evaluation.likelihood import combination_named, mean, mixture, source_weights
from coolfusion.evaluation.metrics import last_number
from coolfusion.testing import toy_source

TEXTS = [
    "Tom has 3 apples. He eats 1. Now 2 are left",
    "Ann has 5 pears. She eats 2. Now 3 are left",
    "Bo has 7 plums. He eats 3. Now 4 are left",
]
REQUEST = Request(max_new_tokens=40)
TASK = make_task(
    "toy",
    [
        {"id": "tom", "prompt": "Tom has", "reference": 2},
        {"id": "ann", "prompt": "Ann has", "reference": ["3", "it is 3"]},
        {"id": "bo", "prompt": "Bo has", "reference": "4"},
        {"id": "eats", "prompt": "He eats", "reference": 2},
    ],
)
PLAN = EvaluationPlan(num_samples=2, sampling=Sampling(temperature=0.8, seed=4))


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [
        toy_source("a", TEXTS[:2]),
        toy_source("b", TEXTS[1:], family="sentencepiece_bpe"),
    ]


@pytest.fixture(scope="module")
def whole(sources: list[Source]) -> tuple[Report, Record]:
    record = Record()
    return evaluate(
        SegmentDecoder(sources, speculation=None),
        TASK,
        metric="last_number",
        request=REQUEST,
        plan=PLAN,
        record=record,
    ), record


def settled(report: Report) -> Report:
    """A report without its times, which no two runs share."""
    return replace(report, results=tuple(replace(each, seconds=0.0) for each in report.results))


def test_every_system_answers_every_row(
    whole: tuple[Report, Record], sources: list[Source]
) -> None:
    report, record = whole
    assert [each.name for each in report.results][:-1] == [
        *("a", "b", "rerank", "cool_r"),
        f"self_consistency({report.best_source})",
        "majority",
    ]
    assert report.results[-1].name == "fusion"
    assert (report.rows, report.num_used) == (("tom", "ann", "bo", "eats"), 4)
    decoder = SegmentDecoder(sources)
    prompts = [row.prompt for row in TASK.rows]
    for name, alone in (("a", [sources[0]]), ("b", [sources[1]]), ("fusion", sources)):
        for row, generation in zip(
            TASK.rows, SegmentDecoder(alone).generate_batch(prompts, REQUEST), strict=True
        ):
            assert record.outcomes[name, row.id].text == generation.text
    for name, fused in (("rerank", False), ("cool_r", True)):
        for row, ranking in zip(
            TASK.rows, rerank_answers(decoder, prompts, REQUEST, with_fused=fused), strict=True
        ):
            assert record.outcomes[name, row.id].text == ranking.text
    for row in TASK.rows:
        samples = [record.outcomes[f"{name}#{n}", row.id].text for name in "ab" for n in range(2)]
        assert record.outcomes["majority", row.id].text == majority_vote(samples, last_number).text


def test_numbers_follow_from_the_values(whole: tuple[Report, Record]) -> None:
    report, record = whole
    best = report.result(report.best_source)
    assert best.p_value is None
    assert best.mean == max(report.result(name).mean for name in "ab")
    for result in report.results:
        assert result.mean == pytest.approx(np.mean(result.values))
        gains = [x - y for x, y in zip(result.values, best.values, strict=True)]
        assert len(result.fixed) == sum(gain > 0 for gain in gains)
        assert len(result.broken) == sum(gain < 0 for gain in gains)
        if result.name != best.name:
            assert result.p_value == exact_mcnemar(len(result.fixed), len(result.broken))
    own = report.result("a").num_forwarded + report.result("b").num_forwarded
    scored = np.mean([record.outcomes["rerank", row].total_forwarded for row in report.rows])
    assert report.result("rerank").num_forwarded == pytest.approx(own + scored)
    together = own + report.result("fusion").num_forwarded
    assert report.result("cool_r").num_forwarded >= together
    assert sum(report.result("majority").wins.values()) == 4
    fused = report.result("fusion")
    assert fused.num_contested <= fused.num_steps
    with pytest.raises(UsageError, match='no system "c"'):
        report.result("c")


class Killed(Exception):
    """The end of a run, from outside."""


@pytest.mark.parametrize("after", [0, 1, 5, 13, 24, 30])
def test_a_killed_run_resumes_to_the_whole(
    whole: tuple[Report, Record], sources: list[Source], tmp_path: Path, after: int
) -> None:
    path = tmp_path / "answers.jsonl"

    class Mortal(Record):
        def add(self, outcome: Outcome) -> None:
            if len(self.outcomes) == after:
                raise Killed
            super().add(outcome)

    def run(record: Record) -> Report:
        with record:
            return evaluate(
                SegmentDecoder(sources, speculation=None),
                TASK,
                metric="last_number",
                request=REQUEST,
                plan=PLAN,
                record=record,
            )

    with pytest.raises(Killed):
        run(Mortal(path, {"model": ["x"]}))
    with path.open("ab") as file:
        file.write(b'{"kind": "outcome", "system": "a", "ro')
    kept = path.read_bytes()[: -len(b'{"kind": "outcome", "system": "a", "ro')]
    assert kept.count(b"\n") == (1 + after if after else 0)
    assert settled(run(Record(path, {"model": ["x"]}))) == settled(whole[0])
    assert path.read_bytes().startswith(kept)
    lines = path.read_bytes()
    assert settled(run(Record(path, {"model": ["x"]}))) == settled(whole[0])
    assert path.read_bytes() == lines


def test_answers_are_judged_anew(sources: list[Source], tmp_path: Path) -> None:
    path, plan = tmp_path / "answers.jsonl", EvaluationPlan(("fusion",))
    with Record(path) as record:
        evaluate(
            SegmentDecoder(sources, speculation=None),
            TASK,
            metric="last_number",
            request=REQUEST,
            plan=plan,
            record=record,
        )
    corrected = Task("toy", tuple(replace(row, references=("77",)) for row in TASK.rows))
    with Record(path) as record:
        before = path.read_bytes()
        report = evaluate(
            SegmentDecoder(sources, speculation=None),
            corrected,
            metric="contains",
            request=REQUEST,
            plan=plan,
            record=record,
        )
    assert path.read_bytes() == before
    assert report.result("fusion").mean == 0.0


def test_another_question_is_refused(sources: list[Source], tmp_path: Path) -> None:
    path, plan = tmp_path / "answers.jsonl", EvaluationPlan(("fusion",))
    with Record(path) as record:
        evaluate(
            SegmentDecoder(sources, speculation=None),
            TASK.first(1),
            request=REQUEST,
            plan=plan,
            record=record,
        )
    other = make_task("toy", [{"id": "tom", "prompt": "Tom had", "reference": 2}])
    with (
        Record(path) as record,
        pytest.raises(UsageError, match=r"has answered something else.*: 'tom' \(Task"),
    ):
        evaluate(
            SegmentDecoder(sources, speculation=None),
            other,
            request=REQUEST,
            plan=plan,
            record=record,
        )
    with pytest.raises(UsageError, match=r"temperature was not set and is 1\.0 now"):
        Record(path, {"temperature": 1.0})


@pytest.mark.parametrize(
    "content",
    [
        "my novel",
        "my novel\n",
        '{"kind": "outcome", "system": "a"}\n',
        '{"kind": "run", "settings": {}}\n[1]\n',
        '{"kind": "run", "settings": {}}\n{"kind": "other"}\n',
        '{"kind": "run", "settings": {}}\n{"kind": "outcome", "system": "a"}\n',
        '{"kind": "run"}\n',
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match="nothing was changed"):
        Record(path)
    assert path.read_text() == content


def test_a_metric_that_raises_loses_only_its_row(
    sources: list[Source], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "picky_metric_of_a_test.py"
    module.write_text(
        "def picky(answer, reference):\n    if reference == '4':\n        raise ValueError('not four.')\n"
        "    return len(answer) / 10\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    report = evaluate(
        SegmentDecoder(sources, speculation=None),
        TASK,
        metric="picky_metric_of_a_test:picky",
        request=REQUEST,
        plan=PLAN,
    )
    assert report.num_used == 3
    assert len(report.failures) == len(report.results)
    assert all("row 'bo'" in failure and "not four" in failure for failure in report.failures)
    for result in report.results:
        assert [value is None for value in result.values] == [False, False, True, False]
        assert result.mean == pytest.approx(np.mean([v for v in result.values if v is not None]))
    assert "3 of 4 rows" in as_text(report)
    assert as_text(report).endswith("ValueError: not four.")


def test_a_row_that_cannot_be_asked_is_lost_alone_and_tried_again(tmp_path: Path) -> None:
    narrow = toy_source("narrow", TEXTS, context_length=24)
    wide = toy_source("wide", TEXTS, family="unigram")
    rows = [
        {"prompt": "Tom has", "reference": 2},
        {"prompt": " ".join(TEXTS), "reference": 3},
    ]
    task, plan = make_task("t", rows), EvaluationPlan(num_samples=1)
    path = tmp_path / "answers.jsonl"
    with Record(path) as record:
        report = evaluate(
            SegmentDecoder([narrow, wide]), task, request=REQUEST, plan=plan, record=record
        )
    assert report.num_used == 1
    assert record.outcomes["wide", 1].error is None
    assert "context window" in str(record.outcomes["narrow", 1].error)
    assert "builds on narrow" in str(record.outcomes["rerank", 1].error)
    longer = toy_source("narrow", TEXTS, context_length=400)
    with Record(path) as record:
        num_before = path.read_bytes().count(b"\n")
        report = evaluate(
            SegmentDecoder([longer, wide]), task, request=REQUEST, plan=plan, record=record
        )
    assert (report.num_used, report.failures) == (2, ())
    added = path.read_bytes().count(b"\n") - num_before
    assert added == sum(outcome.row == 1 for outcome in record.outcomes.values()) - 2


def test_nothing_to_judge_is_still_a_report(sources: list[Source]) -> None:
    task = make_task("t", [{"prompt": "Tom has", "reference": "none"}])
    report = evaluate(
        SegmentDecoder(sources, speculation=None),
        task,
        metric="last_number",
        request=REQUEST,
        plan=PLAN,
    )
    assert report.num_used == 0
    assert math.isnan(report.results[0].mean)
    assert json.loads(json.dumps(as_dict(report), allow_nan=False))["results"][0]["mean"] is None
    assert "nan" in as_text(report)


def test_perplexity_is_that_of_the_reference(sources: list[Source]) -> None:
    task = make_task(
        "t",
        [
            {"prompt": "Tom has", "reference": " 3 apples."},
            {"prompt": "Ann has", "reference": [" 5 pears.", " caf\u00e9"]},
        ],
    )
    record = Record()
    report = evaluate(
        SegmentDecoder(sources, speculation=None), task, metric="perplexity", record=record
    )
    assert [each.name for each in report.results] == ["a", "b", "fusion"]
    for r, row in enumerate(task.rows):
        bits = []
        for reference in row.references:
            logs = []
            for source in sources:
                tokenizer, ids = source.tokenizer, []
                ids = tokenizer.encode_prompt(row.prompt)
                log = 0.0
                for token in tokenizer.encode(reference):
                    log += float(
                        source.backend._log_distribution(source.backend._history(ids, len(ids)))[
                            token
                        ]
                    )  # type: ignore[attr-defined]
                    ids += (token,)
                logs.append(log)
            bits.append(
                [-log / len(reference.encode()) / math.log(2) for log in (*logs, np.mean(logs))]
            )
        for s, result in enumerate(report.results):
            assert result.values[r] == pytest.approx(min(each[s] for each in bits))
    assert not report.higher_is_better
    assert report.best_source == min("ab", key=lambda name: report.result(name).mean)
    assert "lower is better" in as_text(report)


def test_a_mixture_has_no_perplexity(sources: list[Source]) -> None:
    record = Record()
    for settings in (
        {"plan": EvaluationPlan(("mixture(geometric)", "fusion"))},
        {"fused": MixtureDecoder(sources)},
    ):
        with pytest.raises(UsageError, match="mixtures of distributions have none"):
            evaluate(
                SegmentDecoder(sources, speculation=None),
                TASK,
                metric="perplexity",
                record=record,
                **settings,
            )
    assert record.outcomes == {}


def test_combinations_of_log_likelihoods() -> None:
    table, weights = np.array([[-1.0, -3.0], [-2.0, -2.0]]), np.array([0.25, 0.75])
    assert mean(table, weights) == pytest.approx([-2.5, -2.0])
    wanted = np.log(0.25 * np.exp(table[:, 0]) + 0.75 * np.exp(table[:, 1]))
    assert mixture(table, weights) == pytest.approx(wanted)
    assert mixture(table, np.array([1.0, 0.0])) == pytest.approx(table[:, 0])
    assert (mean(table, weights) <= mixture(table, weights) + 1e-12).all()
    with pytest.raises(UsageError, match='no combination "median"'):
        combination_named("median")


def test_weights_of_sources() -> None:
    assert source_weights(["a", "b"], {}).tolist() == [0.5, 0.5]
    assert source_weights(["b", "a"], {"a": 3.0, "b": 1.0}).tolist() == [0.25, 0.75]
    assert source_weights(["b"], {"a": 3.0, "b": 1.0}).tolist() == [1.0]
    with pytest.raises(UsageError, match='weights are of a, c, and none is of source "b"'):
        source_weights(["a", "b"], {"a": 1.0, "c": 1.0})


def test_samples_fit_into_what_fusing_costs(sources: list[Source], tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Record(path) as record:
        evaluate(
            SegmentDecoder(sources, speculation=None),
            TASK,
            metric="last_number",
            request=REQUEST,
            record=record,
        )
    spent = {
        name: sum(record.outcomes[name, row.id].total_forwarded for row in TASK.rows)
        for name in ("a", "b", "fusion")
    }
    assert record.num_samples == {
        "a": max(1, round(spent["fusion"] / spent["a"])),
        "b": max(1, round(spent["fusion"] / spent["b"])),
        "majority": max(1, round(spent["fusion"] / (spent["a"] + spent["b"]))),
    }
    with Record(path) as again:
        assert again.num_samples == record.num_samples


def test_plans_that_make_no_sense(sources: list[Source]) -> None:
    for settings, said in (
        ({"systems": ("fusion", "dice")}, '"dice"'),
        ({"systems": ("majority",)}, "equal compute"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"sampling": Sampling()}, "temperature 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(UsageError, match=said):
            EvaluationPlan(**settings)
    for name in ("fusion", "a#1", "self_consistency(x)"):
        with pytest.raises(UsageError, match="name of a system"):
            evaluate(SegmentDecoder([Source(name, sources[0].tokenizer, sources[0].backend)]), TASK)


def test_progress_is_told(sources: list[Source]) -> None:
    told: list[tuple[str, int, int]] = []
    plan = EvaluationPlan(("rerank",))
    evaluate(
        SegmentDecoder(sources, speculation=None),
        TASK,
        request=REQUEST,
        plan=plan,
        progress=lambda *each: told.append(each),
    )
    assert [each for each in told if each[1] == each[2]] == [
        (n, 4, 4) for n in ("a", "b", "rerank")
    ]


def lines_of(text: str) -> Iterator[list[str]]:
    return (line.split() for line in text.splitlines())


def test_the_three_forms_say_the_same(whole: tuple[Report, Record]) -> None:
    report, _ = whole
    text, markdown, plain = as_text(report), as_markdown(report), as_dict(report)
    for result in report.results:
        assert any(
            line[:1] == [result.name] and f"{result.mean:.3f}" in line for line in lines_of(text)
        )
        assert f"| {result.name}" in markdown
        assert f"{result.mean:.3f}" in markdown
    assert [each["name"] for each in plain["results"]] == [each.name for each in report.results]
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert text.splitlines()[0] == "toy: last_number, 4 rows"
    pipes = replace(report, task="a|b")
    assert "a\\|b" in as_markdown(pipes)
