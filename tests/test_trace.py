"""Traces read back as the responses that were written."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.documents import json_ready
from coolfusion.errors import UsageError
from coolfusion.trace import read_trace, step_from_dict, step_to_dict, write_trace
from coolfusion.types import Candidate, Generation, SkippedSource, Step, StopReason, Usage
from tests.strategies import texts

numbers = st.floats(-1e6, 0.0) | st.just(float("-inf"))
counts = st.integers(0, 10**6)
names = ("a", "b")
pairs = st.tuples(numbers, numbers)
absences = st.lists(st.builds(SkippedSource, st.sampled_from(names), texts), max_size=2).map(tuple)
candidates = st.builds(
    Candidate,
    text=texts,
    ends=st.booleans(),
    drafters=st.sampled_from([("a",), ("b",), names]),
    log_likelihoods=st.none() | pairs,
    num_tokens=st.none() | st.tuples(counts, counts),
    cost=st.none() | st.floats(allow_nan=False),
)
steps = st.builds(
    Step,
    index=counts,
    text=texts,
    segment=texts,
    sources=st.just(names),
    candidates=st.lists(candidates, max_size=3).map(tuple),
    winner=st.none() | st.integers(0, 2),
    ends=st.booleans(),
    log_end=st.none() | pairs,
    withdrawn=absences,
    dropped=absences,
    usage=st.tuples(*[st.builds(Usage, counts, counts, counts, counts)] * 2),
    seconds=st.floats(0, 100),
)


def generation(parts: list[Step], reason: StopReason, stop_string: str | None) -> Generation:
    return Generation("".join(s.text for s in parts), reason, stop_string, names, tuple(parts))


generations = st.builds(
    generation, st.lists(steps, max_size=3), st.sampled_from(StopReason), st.none() | texts
)


@given(steps)
def test_steps_round_trip_through_json(step: Step) -> None:
    line = json.dumps(step_to_dict(step), allow_nan=False)
    assert step_from_dict(json.loads(line)) == step


@given(st.lists(generations, max_size=3))
def test_files_round_trip(tmp_path_factory: pytest.TempPathFactory, whole: list) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    write_trace(path, whole, "prompt \u2028 \n")
    assert read_trace(path) == whole


@given(generations, st.data())
def test_a_torn_file_reads_as_an_interrupted_response(
    tmp_path_factory: pytest.TempPathFactory, whole: Generation, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    write_trace(path, [whole])
    content = path.read_bytes()
    torn = content[: data.draw(st.integers(content.index(b"\n") + 1, len(content) - 1))]
    kept = torn.count(b"\n") - 1
    path.write_bytes(torn)
    (read,) = read_trace(path)
    assert read.steps == whole.steps[:kept]
    assert read.stop_reason is StopReason.INTERRUPTED
    assert read.text == "".join(step.text for step in whole.steps[:kept])


def test_nan_becomes_null_and_back() -> None:
    step = Step(0, "a", "a", names, (), None, False, (float("nan"), -1.0), (), (), (), 0.0)
    assert step_to_dict(step)["log_end"][0] is None
    assert repr(step_from_dict(step_to_dict(step))) == repr(step)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"kind": "start", "sources": []}\nnot json\n')
    with pytest.raises(UsageError, match="line 2"):
        read_trace(path)


def test_every_field_of_a_step_is_written() -> None:
    step = Step(0, "a", "a", (), (), None, False, None, (), (), (), 0.0)
    assert set(step_to_dict(step)) == {field.name for field in dataclasses.fields(Step)}


def test_what_strict_json_lacks() -> None:
    data = {"a": (1, math.inf, -math.inf, math.nan), "b": MappingProxyType({"c": [True, None]})}
    ready: dict[str, Any] = {"a": [1, "inf", "-inf", None], "b": {"c": [True, None]}}
    assert json_ready(data) == ready
    assert json.loads(json.dumps(json_ready(data), allow_nan=False)) == ready
    assert [float(text) for text in ready["a"][1:3]] == [math.inf, -math.inf]
