"""The one reader of rows: what generate, eval, tune and swarm understand alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coolfusion import Request, Sampling, SegmentDecoder, UsageError
from coolfusion.evaluation import EvaluationPlan, Record, evaluate, make_task, read_task
from coolfusion.evaluation.rows import read_rows, request_with
from coolfusion.testing import toy_source

CHAT = [{"role": "user", "content": "How many?"}]
TEXTS = ["Tom has two apples and buys one more.", "Ann has five pens."]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_all_kinds(tmp_path: Path) -> None:
    rows: list[Any] = [
        "a text",
        {"id": "b", "messages": CHAT, "seed": 3, "stop": "\n", "topic": ["x"], "reference": 5},
        {"id": 9, "prompt": "p", "prompts": {"mt": "q"}, "temperature": 1, "top_p": None},
        {"prompts": {"*": CHAT}},
    ]
    path = write(tmp_path / "rows", rows)
    path.write_text("\n" + path.read_text().replace("\n", "\n\n"))
    first, second, third, fourth = read_rows(path)
    assert [row.id for row in (first, second, third, fourth)] == [0, "b", 9, 3]
    assert (first.prompt, second.prompt, third.prompt) == ("a text", CHAT, {"*": "p", "mt": "q"})
    assert (second.options, second.others) == (
        {"seed": 3, "stop": "\n"},
        {"topic": ["x"], "reference": 5},
    )
    assert (third.options, third.others) == ({"temperature": 1}, {})
    assert fourth.place == f'"{path}" line 8'


def test_messages_keep_parts_and_tool_calls(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "f", "content": "3"},
    ]
    (row,) = read_rows(write(tmp_path / "rows", [{"messages": messages}]))
    assert row.prompt == messages


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (3, "a row is a text, or an object"),
        ([], "a row is a text, or an object"),
        ({}, 'either a "prompt" or "messages"'),
        ("", "not empty"),
        ({"id": True, "prompt": "a"}, 'the "id" True'),
        ({"id": 1.5, "prompt": "a"}, 'the "id" 1.5'),
        ({"id": None, "prompt": "a"}, 'the "id" None'),
        ({"messages": []}, 'no list of chat messages in "messages"'),
        ({"messages": "hi"}, 'no list of chat messages in "messages"'),
        ({"messages": [{"role": "user"}]}, '"content"'),
        ({"messages": [{"role": "user", "content": 5}]}, "type int"),
        ({"messages": [{"role": 5, "content": "a"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"),
        ({"messages": ["a"]}, "type str"),
        ({"prompt": ["a"]}, '"prompt"'),
        ({"prompt": "a", "messages": CHAT}, 'either a "prompt" or "messages"'),
        ({"prompts": {}}, "map names of sources"),
        ({"prompts": {"mt": []}}, '"prompts mt"'),
        ({"prompt": "a", "prompts": {"*": "b"}}, "two prompts for the sources it does not name"),
        ({"promt": "a"}, 'the key "promt", which means nothing here. Did you mean "prompt"?'),
        ({"message": CHAT}, 'Did you mean "messages"?'),
        ({"prompt": "a", "max_tokens": 3}, 'Did you mean "max_new_tokens"?'),
        ({"prompt": "a", "Temperature": 1}, 'Did you mean "temperature"?'),
        ({"prompt": "a", "topp": 1}, 'Did you mean "top_p"?'),
        ({"prompt": "a", "stop_strings": ["x"]}, 'Did you mean "stop"?'),
        ({"prompt": "a", "max_length": 3}, 'Did you mean "max_new_tokens"?'),
        ({"prompt": "a", "max_tokns": 3}, 'Did you mean "max_new_tokens"?'),
        ({"prompt": "a", "do_sample": True}, 'Did you mean "temperature"?'),
        ({"prompt": "a", "repetition_penalty": 2}, "Penalties on tokens are not offered"),
        ({"prompt": "a", "num_return_sequences": 2}, "It is called n_best"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt": "a", "max_new_tokens": 2.0}, "must be a whole number"),
        ({"prompt": "a", "max_new_tokens": True}, "must be a whole number"),
        ({"prompt": "a", "temperature": "warm"}, "must be a number"),
        ({"prompt": "a", "temperature": -1}, "temperature is -1"),
        ({"prompt": "a", "top_p": 0}, "top_p is 0"),
        ({"prompt": "a", "top_k": -1}, "top_k is -1"),
        ({"prompt": "a", "seed": "x"}, "must be a whole number"),
        ({"prompt": "a", "stop": ["x", 3]}, "a text or a list of texts"),
        ({"prompt": "a", "stop": ""}, "stop is"),
        ({"prompt": "a", "on_source_error": "ignore"}, "on_source_error is 'ignore'"),
        ({"id": "x", "prompt": "a"}, "the id 'x' of"),
    ],
)
def test_a_bad_row_is_named_for_every_command(tmp_path: Path, row: Any, said: str) -> None:
    """A task has a reference beside it; what is wrong with the row is the same."""
    path = write(tmp_path / "rows", [{"id": "x", "prompt": "fine", "reference": "a"}, row])
    with pytest.raises(UsageError, match="line 2") as caught:
        read_rows(path)
    assert said in str(caught.value)
    if isinstance(row, dict):
        path = write(
            path, [{"id": "x", "prompt": "fine", "reference": "a"}, {**row, "reference": 1}]
        )
        with pytest.raises(UsageError, match="line 2") as caught:
            read_task(path)
        assert said in str(caught.value)


def test_keys_of_your_own_are_fine(tmp_path: Path) -> None:
    others = {"idx": 3, "source": "a book", "level": 2, "answer": "5", "text": None, "category": ""}
    (row,) = read_rows(write(tmp_path / "rows", [{"prompt": "a", **others}]))
    assert row.others == others
    # A key that is there cannot have been meant by another.
    both = {"prompt": "a", "seed": 1, "seeds": [1, 2]}
    assert read_rows(write(tmp_path / "rows", [both]))[0].others == {"seeds": [1, 2]}


def test_options_replace_those_of_a_request() -> None:
    request = Request(40, ("x",), Sampling(0.5, 3, 0.9, 7), on_source_error="raise")
    assert request_with({}, request) == request
    assert request_with({"max_new_tokens": 8, "seed": 1, "stop": "\n"}, request) == Request(
        8, ("\n",), Sampling(0.5, 3, 0.9, 1), on_source_error="raise"
    )


def test_digests_tell_what_is_asked(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "a", "seed": 1}, {"prompt": "a", "seed": 2}, "b", "a"]
    digests = [row.digest() for row in read_rows(write(tmp_path / "rows", rows))]
    assert digests[0] == digests[4]
    assert len(set(digests)) == 4


def test_systems_answer_each_row_by_its_own_options() -> None:
    sources = [toy_source("a", TEXTS), toy_source("b", TEXTS, family="unigram")]
    rows = [
        {"prompt": "Tom has", "reference": "x"},
        {"prompt": "Tom has", "reference": "x", "max_new_tokens": 2},
        {"prompt": "Tom has", "reference": "x", "stop": "a"},
        {"prompt": "Tom has", "reference": "x", "seed": 5, "temperature": 2},
    ]
    task, record = make_task("t", rows), Record()
    evaluate(
        SegmentDecoder(sources),
        task,
        request=Request(max_new_tokens=12),
        plan=EvaluationPlan(num_samples=3),
        record=record,
    )
    for system in ("a", "fusion", "a#0", "b#2"):
        whole, short, stopped = (record.outcomes[system, row.id] for row in task.rows[:3])
        assert len(short.text) < len(whole.text), system
        assert "a" not in stopped.text, system
    # A row's own sampling is about its answer: samples of a vote keep theirs, or would be alike.
    for number in range(3):
        assert record.outcomes[f"a#{number}", 3].text == record.outcomes[f"a#{number}", 0].text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            b'{"prompt": "a"}\n' + b"[" * 100_000,
            "line 2 is not JSON that can be read: it is nested",
        ),
        (
            b'{"prompt": "a", "x": ' + b"9" * 5000 + b"}",
            "line 1 is not JSON that can be read: it has",
        ),
        (b'{"prompt": "a", "x": 1e400}', "the number 1e400 is too great"),
        (b'{"prompt": "a", "x": NaN}', "NaN is no number"),
        (b'{"prompt": "a", "prompt": "b"}', "the key 'prompt' twice"),
        (b'{"prompt": "a", "id": "\\ud800"}', 'line 1 has an "id" that cannot be kept'),
        (b'{"prompt": "a", "\\udc00": 1}', "half a character"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}', "is not UTF-8 at byte 28, in line 2"),
        (b'{"prompt": "\x00"}', "control character"),
        (b"\xff\xfe{\x00", "is not UTF-8 at byte 0, in line 1"),
        (b"", "has no rows"),
        (b"\n \r\n\n", "has no rows"),
        (b"\xef\xbb\xbf", "has no rows"),
    ],
)
def test_what_no_reader_can_take(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_rows(path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_marks_of_editors_are_no_part_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b\\u0000"}\r\n')
    assert [row.prompt for row in read_rows(path)] == ["a", "b\0"]
