"""Every mistake a user can make ends with a message and exit code 2, and loses nothing."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coolfusion.cli import main
from tests.cli.conftest import QUESTION, Run

Copy = Callable[[str], Path]


def without_template(folder: Path) -> Path:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings.pop("chat_template", None)
    config.write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--max-new-tokens=-3"], "max_new_tokens is -3"),
        (["--max-segment-tokens", "0"], "max_segment_tokens is 0"),
        (["--temperature=-1"], "temperature is -1"),
        (["--temperature", "warm"], "invalid float"),
        (["--top-p", "0"], "top_p is 0"),
        (["--top-k=-1"], "top_k is -1"),
        (["--seed=-1"], "seed is -1"),
        (["--stop", ""], "stop is"),
        (["--preset", "best"], '"best"'),
        (["--reranker", "dice"], '"dice"'),
        (["--boundary", "verses"], '"verses"'),
        (["--boundary", "phrases(0)"], "phrases(0)"),
        (["--weights", "1,2"], "2 entries for 3"),
        (["--weights", "much"], "much"),
        (["--weights", "nobody=1"], '"nobody"'),
        (["--lead", "nobody"], '"nobody"'),
        (["--names", "a,b"], "2 names"),
        (["--names", "a,a,b"], "distinct names"),
        (["--raw", "--system", "Be brief."], "--system"),
        (["--trace", "/nowhere/at/all/t.jsonl"], "no folder"),
        (["--output", "here.jsonl"], "--input"),
        (["--dtype", "float7"], "float7"),
        (["--on-source-error", "ignore"], "ignore"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_options_that_make_no_sense(run: Run, arguments: list[str], said: str) -> None:
    dtype = "--dtype" in arguments
    builtin = ["-m", str(Path(__file__).parents[2] / "coolfusion/builtin/sums")] if dtype else []
    got = run("generate", *builtin, *arguments, QUESTION)
    assert got.code == 2
    assert "error: " in got.err
    assert said in got.err
    assert got.out == ""


def test_prompts_that_are_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for got in (run("generate", ""), run("generate", " \n"), run("generate", stdin=b"\n")):
        assert (got.code, got.out) == (2, "")
        assert "empty" in got.err
    invalid = run("generate", "-", stdin=b"caf\xe9 au lait")
    assert invalid.code == 2
    assert "not UTF-8: byte 3 is 0xe9" in invalid.err
    assert run("inspect", "--text", "-", stdin=b"\xff").code == 2
    assert run("inspect", "--text", "").code == 2


def test_no_prompt_at_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard())
    assert main(["generate"]) == 2


def test_a_prompt_that_does_not_fit_leaves_an_old_trace_alone(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("precious")
    got = run("generate", "--trace", trace, "many words " * 2000)
    assert got.code == 2
    assert "context window" in got.err
    assert trace.read_text() == "precious"


def test_folders_that_hold_no_usable_model(run: Run, copy_of: Copy, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    weightless = copy_of("sums")
    (weightless / "model.safetensors").unlink()
    corrupted = copy_of("groups")
    (corrupted / "model.safetensors").write_bytes(b"\xff" * 64)
    cut = copy_of("money")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    file = tmp_path / "file"
    file.write_text("")
    for folder in (empty, weightless, corrupted, cut, file):
        got = run("generate", "-m", folder, QUESTION)
        assert (got.code, got.out) == (2, ""), folder
        assert str(folder) in got.err


def test_the_same_model_twice_needs_names(run: Run, models: dict[str, Path]) -> None:
    twice = ["generate", "--max-new-tokens", 4, "-m", models["sums"], "-m", models["sums"]]
    got = run(*twice, QUESTION)
    assert got.code == 2
    assert "distinct names" in got.err
    assert run("inspect", *twice[3:], "--text", "a b").code == 2
    assert run(*twice, "--names", "one,two", QUESTION).code == 0


def test_sources_without_a_chat_template(
    run: Run, copy_of: Copy, models: dict[str, Path], tmp_path: Path
) -> None:
    bare = without_template(copy_of("sums"))
    short = ["generate", "--max-new-tokens", 4, "-m", bare]
    alone = run(*short, QUESTION)
    assert alone.code == 0
    assert "No source has a chat template" in alone.err
    assert run(*short, "--raw", QUESTION).out == alone.out
    for arguments in (["--system", "Be brief."], ["-m", models["money"]]):
        got = run(*short, *arguments, QUESTION)
        assert (got.code, got.out) == (2, "")
        assert "--raw" in got.err
        assert "copied-sums" in got.err
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    assert run(*short, "--input", rows).code == 1


def test_inspect_needs_tokenizers_and_a_boundary(run: Run) -> None:
    assert run("inspect", "-m", "/nowhere/at/all", "--text", "a").code == 2
    assert run("inspect", "--boundary", "verses", "--text", "a").code == 2
    assert run().code == 2
    assert run("sing").code == 2


def test_an_argument_that_is_not_utf8(run: Run) -> None:
    assert run("generate", "caf\udce9").code == 2


def test_a_prompt_that_does_not_fit_is_said(run: Run) -> None:
    got = run("generate", "many words " * 2000)
    assert (got.code, got.out) == (2, "")
    assert "context window" in got.err


def test_inspect_needs_a_name_for_each_model(run: Run) -> None:
    assert run("inspect", "--names", "a", "--text", "a").code == 2
