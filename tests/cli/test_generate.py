"""``coolfusion generate`` with one prompt: text, streaming, colours, JSON, traces, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coolfusion import FusionModel, read_trace
from coolfusion.backends.huggingface import UnloadedSource
from coolfusion.cli import main
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.errors import SourceError
from coolfusion.types import StopReason
from tests.cli.conftest import QUESTION, Run

SHORT = ("--max-new-tokens", 24)


@pytest.fixture
def expected(models: dict[str, Path]) -> Callable[..., str]:
    def expected(prompt: Any, **settings: Any) -> str:
        return FusionModel.from_pretrained().generate(prompt, **settings).text

    return expected


class Terminal(io.StringIO):
    """A stream that says it is a terminal and keeps every write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def break_after(monkeypatch: pytest.MonkeyPatch, num_steps: int, error: BaseException) -> None:
    original, calls = SegmentDecoder.step, []

    def step(self: SegmentDecoder, state: Any) -> Any:
        calls.append(state)
        if len(calls) > num_steps:
            raise error
        return original(self, state)

    monkeypatch.setattr(SegmentDecoder, "step", step)


def test_a_prompt_is_sent_as_chat(run: Run, expected: Callable[..., str]) -> None:
    got = run("generate", *SHORT, QUESTION)
    text = expected([{"role": "user", "content": QUESTION}], max_new_tokens=24)
    assert (got.code, got.out) == (0, text if text.endswith("\n") else text + "\n")
    assert "contested" in got.err
    assert "\x1b" not in got.out + got.err


def test_a_system_message_comes_first(run: Run, expected: Callable[..., str]) -> None:
    got = run("generate", *SHORT, "-q", "--system", "Be brief.", QUESTION)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert got.out.rstrip("\n") == expected(chat, max_new_tokens=24).rstrip("\n")
    assert got.err == ""


def test_raw_text_is_continued(run: Run, expected: Callable[..., str]) -> None:
    got = run("generate", *SHORT, "--raw", "Tom has 3")
    assert got.out.rstrip("\n") == expected("Tom has 3", max_new_tokens=24).rstrip("\n")


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_standard_input_gives_the_same(run: Run, arguments: tuple[str, ...]) -> None:
    piped = run("generate", *SHORT, *arguments, stdin=QUESTION.encode())
    assert piped.out == run("generate", *SHORT, QUESTION).out


def test_recipe_options_reach_the_fusion(run: Run, models: dict[str, Path]) -> None:
    two = ["generate", *SHORT, "-m", models["sums"], "-m", models["money"], "--names", "a,b"]
    named = run(*two, "--weights", "a=1,b=3", "--json", QUESTION)
    ordered = run(*two, "--weights", "1,3", "--json", QUESTION)
    assert json.loads(named.out)["sources"] == ["a", "b"]
    assert json.loads(named.out)["text"] == json.loads(ordered.out)["text"]
    assert run(*two, "--preset", "paper", "--boundary", "phrases(2)", QUESTION).code == 0
    assert run(*two, "--lead", "b", "--temperature", 1, "--seed", 3, QUESTION).code == 0


def test_json_holds_the_whole_outcome(run: Run) -> None:
    got = run("generate", *SHORT, "--json", "--stop", "apples", QUESTION)
    record = json.loads(got.out)
    assert {"text", "stop_reason", "stop_string", "sources", "warnings"} <= set(record)
    assert record["sources"] == ["sums", "groups", "money"]
    assert "apples" not in record["text"]
    assert set(record["wins"]) == set(record["sources"])


def test_guessing_ahead_changes_no_text(run: Run, models: dict[str, Path]) -> None:
    plain = run("generate", QUESTION, "--no-speculation", *SHORT)
    assert plain.code == 0
    assert run("generate", QUESTION, *SHORT).out == plain.out
    assert run("generate", QUESTION, "--drafter", models["money"], *SHORT).out == plain.out
    refused = run("generate", QUESTION, "--drafter", models["money"], "--no-speculation")
    assert refused.code == 2
    assert "drafter" in refused.err


def test_the_n_best_come_one_a_line_cheapest_first(run: Run) -> None:
    done = run("generate", QUESTION, "--n-best", 3, *SHORT)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert 1 <= len(found) <= 3
    assert len({record["text"] for record in found}) == len(found)
    assert [record["cost"] for record in found] == sorted(record["cost"] for record in found)


@pytest.mark.parametrize("more", [("--explain",), ("--trace", "t.jsonl")])
def test_n_best_follows_no_single_way(run: Run, more: tuple[str, ...]) -> None:
    done = run("generate", QUESTION, "--n-best", 2, *more)
    assert done.code == 2
    assert more[0] in done.err


def test_explaining_numbers_the_steps(run: Run) -> None:
    got = run("generate", *SHORT, "--explain", "-q", QUESTION)
    steps = [line for line in got.err.splitlines() if line[:4].strip().isdigit()]
    assert [int(line[:4]) for line in steps] == list(range(len(steps)))
    assert "'" in steps[0]


def test_text_streams_in_the_colours_of_the_winners(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run("generate", *SHORT, QUESTION).out
    monkeypatch.delenv("NO_COLOR", raising=False)
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["generate", *map(str, SHORT), "--lead", "sums", QUESTION]) == 0
    assert len(out.writes) > 4
    assert "several" in err.getvalue()
    assert "3/3" in err.getvalue()
    out.writes.clear()
    out.truncate(out.seek(0))
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["generate", *map(str, SHORT), QUESTION]) == 0
    assert out.getvalue() == plain


def test_one_source_is_coloured_and_no_color_is_obeyed(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    arguments = ["generate", "-q", "--max-new-tokens", "8", "-m", str(models["sums"]), QUESTION]
    shown = []
    for more in ([], ["--no-color"]):
        out = Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        assert main([*arguments, *more]) == 0
        shown.append(out.getvalue())
    assert "\x1b[36m" in shown[0]
    assert shown[0].replace("\x1b[36m", "").replace("\x1b[0m", "") == shown[1]


def test_a_trace_reads_back_as_what_was_said(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    got = run("generate", *SHORT, "--json", "--trace", path, QUESTION)
    (generation,) = read_trace(path)
    assert generation.text == json.loads(got.out)["text"]
    assert len(generation.steps) == json.loads(got.out)["num_steps"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_control_c_keeps_the_text_so_far(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    whole = run("generate", *SHORT, QUESTION).out
    break_after(monkeypatch, 2, KeyboardInterrupt())
    path = tmp_path / "trace.jsonl"
    got = run("generate", *SHORT, *form, "--trace", path, QUESTION)
    assert got.code == 130
    assert "interrupted" in got.err
    text = json.loads(got.out)["text"] if form else got.out.removesuffix("\n")
    assert text
    assert whole.startswith(text)
    assert form or got.out.endswith("\n")
    (generation,) = read_trace(path)
    assert generation.stop_reason is StopReason.INTERRUPTED
    assert generation.text == text


def test_control_c_while_loading_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FusionModel, "from_pretrained", interrupted)
    got = run("generate", QUESTION)
    assert (got.code, got.out) == (130, "")
    assert "interrupted" in got.err


def test_a_failing_source_leaves_the_text_so_far(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("generate", *SHORT, QUESTION).out
    break_after(monkeypatch, 2, SourceError("it broke"))
    got = run("generate", *SHORT, "--on-source-error", "raise", QUESTION)
    assert got.code == 1
    assert "coolfusion: error: it broke" in got.err
    assert len(got.out) > 2
    assert whole.startswith(got.out.removesuffix("\n"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_costs_the_trace_but_not_the_text(run: Run) -> None:
    whole = run("generate", *SHORT, QUESTION).out
    got = run("generate", *SHORT, "--trace", "/dev/full", QUESTION)
    assert (got.code, got.out) == (1, whole)
    assert got.err.count("cannot be written") == 1


def test_echo_gives_the_same_as_an_argument(run: Run) -> None:
    piped = run("generate", *SHORT, stdin=QUESTION.encode() + b"\n")
    assert piped.out == run("generate", *SHORT, QUESTION).out


def test_a_failing_source_leaves_the_json_so_far(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    break_after(monkeypatch, 2, SourceError("it broke"))
    got = run("generate", *SHORT, "--json", "--on-source-error", "raise", QUESTION)
    assert got.code == 1
    assert got.out
    assert json.loads(got.out)["text"]


def test_a_contest_that_nobody_could_score_is_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[None]:
        yield from ()
        raise SourceError("it broke")

    monkeypatch.setattr("coolfusion.decoding.segments.decoder.score", broken)
    got = run("generate", "--explain", QUESTION)
    assert "it broke" in got.err


@pytest.mark.parametrize("is_row", [False, True])
def test_no_weights_are_read_for_a_chat_without_a_template(
    run: Run, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_row: bool
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(next(iter(models.values())), bare)
    (bare / "chat_template.jinja").unlink()
    monkeypatch.setattr(UnloadedSource, "load", lambda *_, **__: pytest.fail("weights were read"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Tom has 3"}\n')
    given = ["--input", rows] if is_row else ["Tom has 3"]
    got = run("generate", "-m", bare, "-m", next(reversed(models.values())), *given)
    assert got.code == 2
    assert 'Source "bare" has no chat template' in got.err
    assert "--raw" in got.err
