"""The bridge to lm-evaluation-harness; what imports it is skipped where it is not installed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion import PromptError, Request, Sampling, SegmentDecoder, Source, UsageError
from coolfusion.evaluation.harness_text import (
    context_of,
    fitted,
    is_greedy,
    is_higher_better,
    message_text,
    request_of,
    windows,
)
from coolfusion.testing import toy_source

TEXTS = ["Tom has 3 apples. He eats 1 apple.", "Ann has 5 pears. She eats 2 pears."]
ROWS = [
    {"question": "Tom has", "answer": "3 apples.", "label": 0},
    {"question": "Ann has", "answer": "5 pears.", "label": 1},
]
KINDS = {
    "toy_generate": {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [" He", " She"], "max_gen_toks": 30},
        "filter_list": [
            {
                "name": "strip",
                "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "toy_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": ["3 apples.", "5 pears."],
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "toy_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{answer}}",
        "metric_list": [
            {
                "metric": "byte_perplexity",
                "aggregation": "weighted_perplexity",
                "higher_is_better": False,
            }
        ],
    },
}


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [toy_source("a", TEXTS), toy_source("b", TEXTS, family="sentencepiece_bpe")]


def test_contexts_are_text_or_messages() -> None:
    messages = [{"role": "user", "content": "How\nmany?"}]
    assert context_of("plain {") == "plain {"
    assert context_of(message_text(messages)) == messages
    with pytest.raises(UsageError, match="after the chat messages"):
        context_of(message_text(messages) + " So")


@pytest.mark.parametrize(
    ("settings", "request_"),
    [
        ({}, Request(max_new_tokens=7)),
        ({"until": "\n", "max_gen_toks": 3}, Request(max_new_tokens=3, stop=("\n",))),
        ({"until": ["a", ""], "max_tokens": 4}, Request(max_new_tokens=4, stop=("a",))),
        ({"do_sample": False, "temperature": 0.9}, Request(max_new_tokens=7)),
        ({"do_sample": True}, Request(max_new_tokens=7, sampling=Sampling(1.0))),
        (
            {"temperature": 0.5, "top_p": 0.9, "top_k": 5},
            Request(max_new_tokens=7, sampling=Sampling(0.5, 5, 0.9)),
        ),
    ],
)
def test_generation_settings(settings: dict[str, object], request_: Request) -> None:
    assert request_of(settings, 7) == request_


def test_which_way_a_metric_goes_is_said_by_the_task() -> None:
    results = {"higher_is_better": {"toy": {"acc": True, "bits": False, "own": None}}}
    assert is_higher_better(results, "toy", "acc")
    assert not is_higher_better(results, "toy", "bits")
    for metric in ("own", "other"):
        with pytest.raises(UsageError, match=f"does not say whether a higher {metric} is better"):
            is_higher_better(results, "toy", metric)


@given(
    st.lists(st.integers(10, 99), max_size=30).map(tuple),
    st.sampled_from([(1,), (1, 2)]),
    st.one_of(st.none(), st.integers(3, 12)),
)
def test_windows_score_every_id_once(
    ids: tuple[int, ...], beginning: tuple[int, ...], limit: int | None
) -> None:
    parts = list(windows(beginning, ids, limit))
    assert tuple(token for _, continuation in parts for token in continuation) == ids
    seen = beginning
    for number, (prefix, continuation) in enumerate(parts):
        assert prefix
        assert seen[-len(prefix) :] == prefix
        assert limit is None or len(prefix) + len(continuation) <= limit
        if number == len(parts) - 1 and limit is not None:
            assert len(prefix) == min(len(seen), limit - len(continuation))
        seen += continuation
    assert limit is not None or len(parts) == (len(ids) > 0)


def test_long_contexts_lose_words_from_the_left() -> None:
    narrow = toy_source("narrow", TEXTS, context_length=20)
    request = Request(max_new_tokens=8)
    text = " ".join(TEXTS)
    cut = fitted(text, [narrow], request)
    assert text.endswith(cut)
    assert len(narrow.tokenizer.encode_prompt(cut)) <= 12
    longer = text[text.rindex(" ", 0, len(text) - len(cut) - 1) + 1 :]
    assert len(narrow.tokenizer.encode_prompt(longer)) > 12
    assert fitted("Tom has", [narrow], request) == "Tom has"
    messages = [{"role": "user", "content": text}]
    assert fitted(messages, [narrow], request) == messages
    with pytest.raises(PromptError, match="Lower max_gen_toks"):
        fitted(text, [narrow], Request(max_new_tokens=20))


def test_greedy_continuations(sources: list[Source]) -> None:
    decoder = SegmentDecoder(sources)
    whole = decoder.generate("Tom has", Request(max_new_tokens=40)).text
    assert whole.startswith(" 3 apples. He")
    for continuation, expected in (
        (" 3", True),
        (" 3 apples", True),
        (" 3 app", False),
        (" 5", False),
        (whole, True),
    ):
        assert is_greedy(decoder, "Tom has", continuation) is expected
    assert not is_greedy(decoder, "", "Tom")


class Asked:
    """A request as lm-eval makes it."""

    def __init__(self, *args: object) -> None:
        self.args = args


def naive(source: Source, ids: Sequence[int], first: int) -> float:
    """Log-likelihood of ``ids[first:]`` by the n-gram model's own distribution."""
    backend = source.backend
    return sum(
        float(backend._log_distribution(backend._history(tuple(ids), i))[ids[i]])  # type: ignore[attr-defined]
        for i in range(first, len(ids))
    )


def test_the_numbers_are_what_the_docstring_says(sources: list[Source]) -> None:
    pytest.importorskip("lm_eval")
    from coolfusion.evaluation.harness import CoolfusionLM

    for combination in ("mean", "mixture"):
        model = CoolfusionLM(decoder=SegmentDecoder(sources), combination=combination)
        asked = [Asked("Tom has ", "3 apples"), Asked("Ann has", " 5"), Asked("", "Tom has")]
        scored = model.loglikelihood(asked)
        wanted = []
        for context, text in (("Tom has", " 3 apples"), ("Ann has", " 5")):
            values = []
            for source in sources:
                prompt = source.tokenizer.encode_prompt(context)
                values.append(naive(source, prompt + source.tokenizer.encode(text), len(prompt)))
            wanted.append(
                np.mean(values)
                if combination == "mean"
                else np.logaddexp.reduce(values) - math.log(2)
            )
        alone = []
        for source in sources:
            ids = source.tokenizer.encode_prompt("Tom has")
            alone.append(naive(source, (min(source.tokenizer.end_ids), *ids), 1))
        wanted.append(
            np.mean(alone) if combination == "mean" else np.logaddexp.reduce(alone) - math.log(2)
        )
        assert [value for value, _ in scored] == pytest.approx(wanted)
        assert [flag for _, flag in scored] == [True, True, False]
        assert model.loglikelihood_rolling([Asked("Tom has"), Asked("")]) == pytest.approx(
            [wanted[2], 0]
        )
        settings = {"until": [" He"], "max_gen_toks": 30}
        both = [
            Asked("Tom has", settings),
            Asked("Ann has", {"max_gen_toks": 4}),
            Asked("Ann has", settings),
        ]
        texts = model.generate_until(both)
        assert texts[0] == " 3 apples."
        assert (
            texts[1] == SegmentDecoder(sources).generate("Ann has", Request(max_new_tokens=4)).text
        )


def test_tasks_of_the_harness(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from coolfusion.evaluation.harness_tasks import evaluate_harness_task

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(tmp_path / "rows.jsonl")},
        "test_split": "train",
        "doc_to_text": "{{question}}",
    }
    for name, settings in KINDS.items():
        whole = {"task": name, **common, **settings}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML
    settings = {"include_path": tmp_path, "cache": tmp_path, "max_new_tokens": 30}
    reports = {
        name: evaluate_harness_task(SegmentDecoder(sources), name, **settings) for name in KINDS
    }
    for name, report in reports.items():
        assert [each.name for each in report.results] == ["a", "b", "fusion"]
        assert report.rows == (f"{name}/0", f"{name}/1")
        if name == "toy_rolling":
            assert not report.higher_is_better
        else:
            assert [each.mean for each in report.results] == [1.0, 1.0, 1.0]
    again = evaluate_harness_task(SegmentDecoder(sources), "toy_choice", **settings)
    for first, second in zip(reports["toy_choice"].results, again.results, strict=True):
        assert first.values == second.values
        assert second.num_forwarded == 0  # everything came from the cache
    with pytest.raises(UsageError, match="no task"):
        evaluate_harness_task(SegmentDecoder(sources), "no_such_task", include_path=tmp_path)
    with pytest.raises(UsageError, match='no metric "f1"'):
        evaluate_harness_task(
            SegmentDecoder(sources), "toy_choice", include_path=tmp_path, metric="f1"
        )
