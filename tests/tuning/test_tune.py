"""Tuning on toy sources: what is tried, chosen, kept and reported."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coolfusion import CoolfusionError, Request, SegmentDecoder, Source, UsageError, tuning
from coolfusion.config.file import write_fusion_file
from coolfusion.config.options import FusionConfig
from coolfusion.evaluation import EvaluationPlan, Record, Task, evaluate, make_task, metric_named
from coolfusion.evaluation.likelihood import log_likelihoods
from coolfusion.evaluation.systems import System, decoding
from coolfusion.testing import toy_source
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.tokenization.boundaries import words
from coolfusion.tuning import (
    TuningPlan,
    TuningProgress,
    TuningReport,
    as_dict,
    as_markdown,
    as_text,
    label,
    verdicts,
)
from coolfusion.tuning.objectives import Contender, recipe_of

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
        {"id": "she", "prompt": "She eats", "reference": 3},
    ],
)
REFERENCES = make_task(
    "refs",
    [{"prompt": text[:7], "reference": [text[7:], text[7:20]]} for text in TEXTS]
    + [{"prompt": "He", "reference": " eats 1."}],
)
PLAN = TuningPlan("last_number", num_trials=6, held_out=0.4)


def tune(sources: list[Source], task: Task, plan: TuningPlan, **options: Any) -> TuningReport:
    """Tuning whose costs follow from the rows; how far sources guess ahead depends on the clock."""
    return tuning.tune(sources, task, plan, speculation=None, **options)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [
        toy_source("a", TEXTS[:2]),
        toy_source("b", TEXTS[1:], family="sentencepiece_bpe"),
    ]


@pytest.fixture(scope="module")
def whole(sources: list[Source]) -> tuple[TuningReport, Record]:
    record = Record()
    return tune(sources, TASK, PLAN, request=REQUEST, record=record), record


def test_values_are_those_of_decoding(
    whole: tuple[TuningReport, Record], sources: list[Source]
) -> None:
    report, _ = whole
    metric = metric_named("last_number")
    rows = {row.id: row for row in TASK.rows}
    for entry in report.entries:
        if entry.config is None:
            decoder = SegmentDecoder([source for source in sources if source.name == entry.name])
        else:
            decoder = SegmentDecoder(sources, recipe_of(entry.config, sources))
        for ids, result in (
            (report.tuning_rows, entry.tuning),
            (report.held_out_rows, entry.held_out),
        ):
            assert result is not None
            wanted = [
                metric.value(rows[id_], decoder.generate(rows[id_].prompt, REQUEST).text)
                for id_ in ids
            ]
            assert list(result.values) == wanted
            assert result.mean == pytest.approx(np.mean(wanted))
            assert result.interval[0] <= result.mean <= result.interval[1]


def test_the_best_on_the_tuning_rows_is_chosen(whole: tuple[TuningReport, Record]) -> None:
    report, _ = whole
    assert [e.name for e in report.entries][:3] == ["a", "b", "untuned"]
    assert {*report.tuning_rows, *report.held_out_rows} == {row.id for row in TASK.rows}
    assert (len(report.tuning_rows), len(report.held_out_rows)) == (3, 2)
    assert [trial.number for trial in report.trials] == [1, 2, 3, 4, 5, 6]
    untuned = report.entry("untuned").tuning
    ranked = [(-untuned.mean, untuned.num_forwarded, 0)]
    for trial in report.trials:
        assert trial.score is not None
        ranked.append((-trial.score, trial.num_forwarded, trial.number))
    number = min(ranked)[2]
    assert report.chosen == (f"trial {number}" if number else "untuned")
    tried = [FusionConfig(), *(trial.config for trial in report.trials)]
    assert report.best == tried[number]
    shown = [entry.trial for entry in report.entries if entry.trial]
    assert shown == [place for _, _, place in sorted(ranked) if place][:5]
    assert report.entry(report.best_source).tuning.p_value is None
    with pytest.raises(UsageError, match='no entry "x"'):
        report.entry("x")


def test_the_report_is_shown_in_three_ways(whole: tuple[TuningReport, Record]) -> None:
    report, _ = whole
    text, markdown, data = as_text(report), as_markdown(report), as_dict(report)
    for name in ("a (best source)", "untuned", f"{report.chosen} (chosen)"):
        assert name in text
        assert f"| {name}" in markdown
    assert "toy: last_number; random search, 6 trials, 3 tuning rows, 2 held out" in text
    assert all(sentence in text for sentence in verdicts(report))
    assert verdicts(report)[0].startswith(f"On the held-out rows {report.chosen} is ")
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again["chosen"] == report.chosen
    assert len(again["trials"]) == 6
    assert again["trials"][0]["config"] == report.trials[0].config.said()


def test_the_same_seed_gives_the_same_report(
    whole: tuple[TuningReport, Record], sources: list[Source]
) -> None:
    assert tune(sources, TASK, PLAN, request=REQUEST, record=whole[1]) == whole[0]
    assert tune(sources, TASK, PLAN, request=REQUEST) == whole[0]
    other = tune(sources, TASK, replace(PLAN, seed=1), request=REQUEST, record=whole[1])
    assert other.trials != whole[0].trials


class Killed(Exception):
    """A stop in the middle."""


@pytest.mark.parametrize("search", ["random", "swarm"])
def test_a_stopped_run_goes_on_and_computes_nothing_twice(
    search: str, sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, search=search)
    wanted_record = Record()
    wanted = tune(sources, TASK, plan, request=REQUEST, record=wanted_record)
    add, added, path = Record.add, [], tmp_path / "trials.jsonl"

    def stopping(self: Record, outcome: Any) -> None:
        if len(added) and len(added) % 7 == 0:
            added.append(None)
            raise Killed
        add(self, outcome)
        added.append((outcome.system, outcome.row))

    monkeypatch.setattr(Record, "add", stopping)
    num_runs = 0
    while True:
        num_runs += 1
        try:
            with Record(path, {"seed": 0}) as record:
                got = tune(sources, TASK, plan, request=REQUEST, record=record)
            break
        except Killed:
            with path.open("ab") as file:  # and the line after it was torn
                file.write(b'{"kind": "outc')
    assert got == wanted
    kept = [pair for pair in added if pair is not None]
    assert num_runs > 3
    assert len(kept) == len(set(kept)) == len(wanted_record.outcomes)


def test_progress_says_what_leads(sources: list[Source]) -> None:
    seen: list[TuningProgress] = []
    report = tune(sources, TASK, PLAN, request=REQUEST, progress=seen.append)
    assert (seen[0].what, seen[0].trial, seen[0].best_score) == ("a", 0, None)
    assert seen[-1].trial == seen[-1].num_trials == 6
    assert seen[-1].best == f"{report.chosen} {label(report.best)}".strip()
    scores = [each.best_score for each in seen if each.best_score is not None]
    assert scores == sorted(scores)
    assert all(each.done <= each.num_rows for each in seen)


def test_nothing_held_out(sources: list[Source]) -> None:
    report = tune(sources, TASK, replace(PLAN, held_out=0, num_trials=2), request=REQUEST)
    assert report.held_out_rows == ()
    assert all(entry.held_out is None for entry in report.entries)
    assert "No rows were held out" in as_text(report)
    json.dumps(as_dict(report), allow_nan=False)


def test_a_swarm_starts_from_every_source(sources: list[Source]) -> None:
    report = tune(sources, TASK, replace(PLAN, search="swarm", num_trials=9), request=REQUEST)
    assert len(report.trials) == 9
    first, second = (trial.config.weights for trial in report.trials[:2])
    assert first == {"a": 0.9901, "b": 0.0099}
    assert second == {"a": 0.0099, "b": 0.9901}
    for trial in report.trials:
        assert trial.config == FusionConfig(weights=trial.config.weights)
        assert sum(trial.config.weights.values()) == pytest.approx(1) or not trial.config.weights


def test_a_setting_that_is_no_better_and_no_cheaper_is_not_chosen() -> None:
    twins = [toy_source(name, TEXTS) for name in ("a", "b")]
    plan = TuningPlan("last_number", "grid", vary={"weights": ()}, held_out=0)
    report = tune(twins, TASK, plan, request=REQUEST)
    assert len(report.trials) == 9
    assert report.chosen == "untuned"


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    def metric(body: str) -> str:
        name = f"metric_of_a_tuning_test_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text(f"def judge(answer, reference):\n    {body}\n")
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop(name, None)
        return f"{name}:judge"

    return metric


def test_a_row_that_cannot_be_judged_costs_only_itself(
    sources: list[Source], metric: Callable[[str], str]
) -> None:
    task = make_task(
        "toy", [{"prompt": row.prompt, "reference": row.references[0]} for row in TASK.rows]
    )
    report = tune(
        sources,
        task,
        replace(PLAN, metric=metric("return 1 / (int(reference) - 4)"), held_out=0.2),
        request=REQUEST,
    )
    ended = replace(report, failures=tuple(f"{text}." for text in report.failures))
    assert as_text(ended) == as_text(report)
    assert sum(report.num_used) == 4
    assert any("row 2" in text and "ZeroDivisionError" in text for text in report.failures)
    assert all(trial.score is not None for trial in report.trials)
    assert "row 2" in as_text(report)


def test_a_setting_without_a_value_for_a_row_is_ruled_out(
    sources: list[Source], whole: tuple[TuningReport, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = Contender("", whole[0].best).system
    assert best != Contender("", FusionConfig()).system

    def losing(name: str, *arguments: Any) -> System:
        system = decoding(name, *arguments)

        def answer(rows: Any, outcomes: Any) -> Any:
            for outcome in system.answer(rows, outcomes):
                lost = name == best and outcome.row == whole[0].tuning_rows[0]
                yield replace(outcome, error="its memory is full") if lost else outcome

        return replace(system, answer=answer)

    monkeypatch.setattr("coolfusion.tuning.objectives.decoding", losing)
    report = tune(sources, TASK, PLAN, request=REQUEST)
    assert report.chosen != whole[0].chosen
    assert [trial.score is None for trial in report.trials].count(True) == 1
    assert any("its memory is full" in text for text in report.failures)
    assert report.num_used == (3, 2)


def test_nothing_to_compare_is_an_error_that_names_a_row(
    sources: list[Source], metric: Callable[[str], str]
) -> None:
    record = Record()
    plan = replace(PLAN, metric=metric("raise KeyError(reference)"))
    with pytest.raises(CoolfusionError, match=r"nothing can be compared.*row 'tom'") as caught:
        tune(sources, TASK, plan, request=REQUEST, record=record)
    assert not isinstance(caught.value, UsageError)
    assert len(record.outcomes) == 9  # three baselines, three rows: kept


def bits(sources: list[Source], row: Any, weights: dict[str, float]) -> float:
    """The naive mixture over segments, from whole likelihoods of beginnings of the reference."""
    found = []
    for reference in row.references:
        tokenizers = [source.tokenizer for source in sources]
        ends = [*ratified_cuts(reference, words, tokenizers), len(reference)]
        sums = []
        for source in sources:
            prompt = source.tokenizer.encode_prompt(row.prompt)
            (scores,) = log_likelihoods(source, [prompt], [[reference[:end] for end in ends]])
            sums.append(np.diff([0.0, *scores.log_likelihoods]))  # type: ignore[union-attr]
        mixed = sum(weights[s.name] * np.exp(each) for s, each in zip(sources, sums, strict=True))
        found.append(-np.log(mixed).sum() / math.log(2) / len(reference.encode()))
    return min(found)


def test_perplexity_is_that_of_the_mixture_over_segments(sources: list[Source]) -> None:
    plan = TuningPlan("perplexity", "swarm", 9)
    record = Record()
    report = tune(sources, REFERENCES, plan, record=record)
    assert not report.higher_is_better
    assert {system for system, _ in record.outcomes} == {"a by words", "b by words"}
    rows = {row.id: row for row in REFERENCES.rows}
    for entry in report.entries:
        weights = dict.fromkeys("ab", 0.5) if entry.config else {entry.name: 1.0}
        if entry.config and entry.config.weights:
            weights = dict(entry.config.weights)
            weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        judges = [source for source in sources if source.name in weights]
        for id_, value in zip(report.tuning_rows, entry.tuning.values, strict=True):
            assert value == pytest.approx(bits(judges, rows[id_], weights), abs=1e-9)
    assert "lower is better" in as_text(report)
    scores = [trial.score for trial in report.trials if trial.score is not None]
    assert report.entry(report.chosen).tuning.mean <= min(scores)


def test_a_source_alone_has_the_perplexity_that_eval_gives_it(sources: list[Source]) -> None:
    report = tune(sources, REFERENCES, TuningPlan("perplexity", num_trials=2, held_out=0))
    theirs = evaluate(
        SegmentDecoder(sources),
        REFERENCES,
        metric="perplexity",
        plan=EvaluationPlan(systems=("fusion",)),
    )
    for name in "ab":
        assert report.entry(name).tuning.values == pytest.approx(theirs.result(name).values)


def test_boundaries_change_the_perplexity_and_are_scored_once(sources: list[Source]) -> None:
    record = Record()
    plan = TuningPlan("perplexity", "grid", vary={"boundary": ("words", "whole_response")})
    report = tune(sources, REFERENCES, plan, record=record)
    assert len(record.outcomes) == 2 * 2 * 4
    assert len({trial.score for trial in report.trials}) == 2


def test_a_row_that_a_source_cannot_score_is_left_out(sources: list[Source]) -> None:
    short = [sources[0], toy_source("b", TEXTS[1:], context_length=14)]
    report = tune(short, REFERENCES, TuningPlan("perplexity", num_trials=2, held_out=0))
    assert 0 < report.num_used[0] < 4
    assert any("b" in text and "row" in text for text in report.failures)


class Forgetful:
    """A backend whose costs depend on how often it was asked since it was made, as with a cache."""

    def __init__(self, source: Source) -> None:
        self.inner, self.num_calls = source.backend, 0
        self.vocab_size, self.context_length = self.inner.vocab_size, self.inner.context_length

    def score(self, queries: Any) -> Any:
        return [self.charged(answer) for answer in self.inner.score(queries)]

    def draft(self, queries: Any, num_tokens: int) -> Any:
        return [self.charged(answer) for answer in self.inner.draft(queries, num_tokens)]

    def charged(self, answer: Any) -> Any:
        self.num_calls += 1
        return replace(answer, num_forwarded=1 + 100 // self.num_calls)


def test_a_run_killed_anywhere_and_resumed_writes_the_same_files(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With guesses by the clock, and costs that depend on what was asked before."""
    task = replace(TASK, rows=TASK.rows[:2])
    plan = TuningPlan("last_number", num_trials=3, held_out=0)

    def files(record: Record) -> list[bytes]:
        fresh = [replace(source, backend=Forgetful(source)) for source in sources]
        report = tuning.tune(fresh, task, plan, request=Request(max_new_tokens=12), record=record)
        assert len({round(trial.score or 0, 9) for trial in report.trials}) < len(report.trials)
        write_fusion_file(tmp_path / "fusion.toml", report.best)
        told = json.dumps(as_dict(report))
        return [
            (tmp_path / "fusion.toml").read_bytes(),
            as_markdown(report).encode(),
            told.encode(),
        ]

    wanted, add = files(Record()), Record.add
    num_outcomes = 0

    def killed_at(place: int) -> Callable[[Record, Any], None]:
        count = 0

        def stopping(self: Record, outcome: Any) -> None:
            nonlocal count
            count += 1
            if count > place:
                raise Killed
            add(self, outcome)

        return stopping

    while True:
        path = tmp_path / f"{num_outcomes}.jsonl"
        monkeypatch.setattr(Record, "add", killed_at(num_outcomes))
        try:
            with Record(path, {"seed": 0}) as record:
                files(record)
            break
        except Killed:
            monkeypatch.setattr(Record, "add", add)
            with Record(path, {"seed": 0}) as record:
                assert files(record) == wanted
            num_outcomes += 1
    assert num_outcomes > 8
