"""A prompt per source: by name, with one for everyone else, through every method and in traces."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from coolfusion import FusionModel, Request, SegmentDecoder, Speculation, read_trace, write_trace
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.errors import PromptError, UsageError
from coolfusion.evaluation import evaluate, make_task
from coolfusion.testing import toy_source
from coolfusion.tokenization.prompts import (
    check_prompt_names,
    prompt_for,
    prompt_text,
    prompts_among,
)
from coolfusion.trace import TraceWriter

TEXTS = ["one: the cat sat down.", "two: the cat sat down.", "three: a dog ran off."]
REQUEST = Request(max_new_tokens=20)
OWN = {"a": "one:", "b": "two:"}


def sources() -> list[object]:
    return [
        toy_source("a", [TEXTS[0], TEXTS[2]], order=6),
        toy_source("b", [TEXTS[1], TEXTS[2]], family="sentencepiece_bpe", order=6),
    ]


def test_each_source_reads_its_own() -> None:
    decoder = SegmentDecoder(sources())
    state = decoder.start(OWN, REQUEST)
    for source, ids in zip(decoder.sources, state.prompts, strict=True):
        assert ids == source.tokenizer.encode_prompt(OWN[source.name])
    assert decoder.generate(OWN, REQUEST).text == " the cat sat down."
    # Neither source knows the other's prompt.
    assert decoder.generate("three:", REQUEST).text == " a dog ran off."


def test_equal_prompts_are_one_prompt() -> None:
    decoder = SegmentDecoder(sources())
    common = decoder.generate("three:", REQUEST)
    assert decoder.generate({"a": "three:", "b": "three:"}, REQUEST).text == common.text
    assert decoder.generate({"a": "three:", "*": "three:"}, REQUEST).text == common.text
    assert decoder.generate({"*": "three:"}, REQUEST).text == common.text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"a": "one:"}, 'no prompt for source "b"'),
        ({}, 'no prompt for source "a"'),
        ({**OWN, "c": "x"}, 'prompt for "c", but no such source'),
        ({"a": "one:", "*": ""}, "empty"),
    ],
)
def test_names_that_do_not_fit(prompt: dict[str, str], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        SegmentDecoder(sources()).start(prompt)


def test_the_front_door_takes_them() -> None:
    fusion = FusionModel(sources())
    wanted = " the cat sat down."
    settings = {"max_new_tokens": 20}
    assert fusion.generate(OWN, **settings).text == wanted
    assert "".join(step.text for step in fusion.stream(OWN, **settings)) == wanted
    assert fusion.n_best(OWN, 2, **settings)[0].generation.text == wanted
    batch = fusion.generate_batch([OWN, "three:", {"*": "three:"}], **settings)
    assert [each.text for each in batch] == [wanted, " a dog ran off.", " a dog ran off."]


@pytest.mark.parametrize("recipe", [make_recipe(), make_recipe(prior="prompt")])
def test_guesses_change_nothing(recipe: object) -> None:
    drafter = toy_source("drafter", TEXTS, order=6)
    plain = SegmentDecoder(sources(), recipe, speculation=None).generate(OWN, REQUEST)
    for speculation in (Speculation(), Speculation(drafter), Speculation(drafter, look_up=False)):
        guessed = SegmentDecoder(sources(), recipe, speculation=speculation).generate(OWN, REQUEST)
        assert guessed.text == plain.text


def test_every_system_of_an_evaluation_takes_them() -> None:
    rows = [
        {"id": 1, "prompts": OWN, "reference": "the cat sat down."},
        {"id": 2, "prompt": "three:", "reference": "a dog ran off."},
        {"id": 3, "prompt": "three:", "prompts": {"a": "three:"}, "reference": "a dog ran off."},
        {
            "id": 4,
            "prompts": {"a": "one:", "b": [{"role": "user", "content": "two:"}]},
            "reference": "the cat sat down.",
        },
    ]
    report = evaluate(SegmentDecoder(sources()), make_task("t", rows[:3]), request=REQUEST)
    means = {result.name: result.mean for result in report.results}
    assert {means["a"], means["b"], means["fusion"], means["rerank"]} == {1.0}
    scored = evaluate(SegmentDecoder(sources()), make_task("t", rows[:3]), metric="perplexity")
    assert not scored.failures
    # A source without a template cannot read messages: that row alone is lost.
    assert evaluate(SegmentDecoder(sources()), make_task("t", rows), request=REQUEST).failures


def test_rows_with_wrong_names_are_refused_at_once() -> None:
    for prompts in ({"a": "one:"}, {**OWN, "c": "x"}):
        task = make_task("t", [{"prompts": prompts, "reference": "x"}])
        with pytest.raises(UsageError, match='Task "t" row 0'):
            evaluate(SegmentDecoder(sources()), task)


@pytest.mark.parametrize(
    "row",
    [
        {"prompts": {}},
        {"prompts": "text"},
        {"prompts": ["text"]},
        {"prompts": {"a": 3}},
        {"prompts": {"a": ""}},
        {"prompts": {"a": []}},
        {"prompts": {"a": [{"role": "user"}]}},
        {"prompts": OWN, "prompt": "x", "messages": [{"role": "user", "content": "x"}]},
        {"prompts": OWN, "prompt": ""},
        {},
    ],
)
def test_rows_that_are_none(row: dict[str, object]) -> None:
    with pytest.raises(UsageError, match='Task "t" row 0'):
        make_task("t", [{**row, "reference": "x"}])


def test_rows_are_known_again_by_all_their_prompts() -> None:
    def digest(**row: object) -> str:
        return make_task("t", [{**row, "reference": "x"}]).rows[0].digest()

    assert digest(prompts=OWN) == digest(prompts=dict(reversed(OWN.items())))
    assert digest(prompts=OWN) != digest(prompts={**OWN, "b": "three:"})
    assert digest(prompts=OWN) != digest(prompts=OWN, prompt="x")


def test_traces_record_them(tmp_path: Path) -> None:
    generation = SegmentDecoder(sources()).generate(OWN, REQUEST)
    write_trace(tmp_path / "t.jsonl", [generation], OWN)
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])["prompt"] == OWN
    assert read_trace(tmp_path / "t.jsonl") == [generation]
    file = io.StringIO()
    TraceWriter(file).start(["a", "b"], OWN)
    assert json.loads(file.getvalue())["prompt"] == OWN


def test_the_parts() -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "user", "content": "there"}]
    assert prompt_for("x", "anyone") == "x"
    assert prompt_for({"a": "x", "*": chat}, "b") == chat
    assert prompt_text({"a": "x", "b": chat, "c": "x"}) == "x\nhi\nthere"
    parts = [{"type": "text", "text": "hi"}, {"type": "image"}, {"type": "text", "text": "there"}]
    shapes: Any = [{"role": "user", "content": parts}, {"role": "assistant"}, {"content": None}]
    assert prompt_text(shapes) == "hi\nthere\n\n"
    assert prompts_among({"a": "x", "*": "y"}, ["b", "a"]) == {"b": "y", "a": "x"}
    assert prompts_among(chat, ["a"]) == chat
    check_prompt_names({"a": "x", "*": "y"}, ["a"])
