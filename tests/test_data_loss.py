"""What was finished is never lost in silence, and never taken for something else.

Every way in which a command once lost work, mixed it up or destroyed a file, for each of the
four commands that keep finished work: the sources are toys, the second processes are real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import coolfusion
from coolfusion import FusionModel
from coolfusion.builtin import builtin_paths
from coolfusion.cli import main
from coolfusion.cli.rows import AnswerFile
from coolfusion.errors import LoadError
from coolfusion.evaluation import Record
from coolfusion.swarm.log import SwarmLog
from coolfusion.testing import toy_source
from coolfusion.trace import TraceWriter, read_trace, write_trace
from coolfusion.types import Generation
from tests.checkpoints import tensors_of, write_llama
from tests.interrupts import hear_ctrl_c
from tests.loaded_fusion import loading

ROOT = Path(coolfusion.__file__).parents[1]
TEXTS = [
    "Tom has 3 apples. He eats 1. Now 2 are left",
    "Ann has 5 pears. She eats 2. Now 3 are left",
]
ROWS = [
    {"id": "tom", "prompt": "Tom has", "reference": "2"},
    {"id": "ann", "prompt": "Ann has", "reference": "3"},
    {"prompt": "Now", "reference": "3"},
    {"prompt": "He eats", "reference": "2"},
]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and signals are POSIX")


def norm(folder: Path, device: str | None) -> float:
    """A utility: smaller weights are better."""
    return -sum(float(tensor.square().sum()) for tensor in tensors_of(folder).values())


@dataclass(frozen=True)
class Command:
    """A command line, the file it keeps finished work in, and the class that adds to it."""

    arguments: list[str]
    log: Path
    writer: type[Any]

    @property
    def whole_lines(self) -> bytes:
        """What the log holds but for a line without an end."""
        data = self.log.read_bytes()
        return data[: data.rfind(b"\n") + 1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with rows and experts, where two toys are the fusion."""
    fusion = FusionModel([toy_source("a", TEXTS), toy_source("b", TEXTS[::-1], family="unigram")])
    monkeypatch.setattr("coolfusion.cli.options.load_fusion", loading(fusion))
    monkeypatch.chdir(tmp_path)
    write_rows(ROWS)
    return tmp_path


def write_rows(rows: list[Any]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def generate() -> Command:
    options = "-m a -m b --raw --max-new-tokens 8 --batch-size 1 --input rows.jsonl"
    return Command(
        ["generate", *options.split(), "--output", "out.jsonl"], Path("out.jsonl"), AnswerFile
    )


def evaluate() -> Command:
    options = "-m a -m b --raw --max-new-tokens 8 --samples 1 --task rows.jsonl --output results"
    return Command(["eval", *options.split()], Path("results/answers.jsonl"), Record)


def tune() -> Command:
    options = "-m a -m b --raw --max-new-tokens 8 --trials 2 --task rows.jsonl --output tuned"
    return Command(["tune", *options.split()], Path("tuned/trials.jsonl"), Record)


def swarm() -> Command:
    for seed, name in enumerate("ab"):
        if not Path(name).exists():
            write_llama(Path(name), seed)
    options = "-m a -m b --particles 3 --iterations 2 -q --output found"
    arguments = ["swarm", *options.split(), "--utility", "tests.test_data_loss:norm"]
    return Command(arguments, Path("found/evaluations.jsonl"), SwarmLog)


COMMANDS = {"generate": generate, "eval": evaluate, "tune": tune, "swarm": swarm}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, here: Path) -> Command:
    return COMMANDS[request.param]()


def run_while(command: Command, happens: Callable[[int], None]) -> int:
    """The exit code of a run; ``happens`` is called before each record with their number."""
    original, count = command.writer.add, iter(range(10_000))

    def adding(self: Any, record: Any) -> None:
        happens(next(count))
        original(self, record)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command.writer, "add", adding)
        return main(command.arguments)


def process(arguments: list[str], *python: str) -> subprocess.CompletedProcess[str]:
    """The command line, or else ``python``, in a process of its own."""
    return subprocess.run(
        [sys.executable, *(python or ("-m", "coolfusion")), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def test_a_second_process_is_refused(command: Command) -> None:
    """Two runs into one place: both once ended with 0, and the file was a mixture."""
    seconds: list[subprocess.CompletedProcess[str]] = []

    def start_another(number: int) -> None:
        if number == 1:
            seconds.append(process(command.arguments))

    assert run_while(command, start_another) == 0
    (second,) = seconds
    assert second.returncode == 2
    assert "Another process is writing" in second.stderr
    assert str(command.log) in second.stderr
    whole = command.log.read_bytes()
    assert main(command.arguments) == 0
    assert command.log.read_bytes() == whole


TRACED = ["generate", "-m", "a", "-m", "b", "--raw", "--max-new-tokens", "8"]
TRACED += ["--trace", "steps.jsonl"]


def at_step(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """``happens`` is called once, after the second step of a trace is written."""
    original, count = TraceWriter.step, iter(range(10_000))

    def stepping(self: TraceWriter, step: Any) -> None:
        original(self, step)
        if next(count) == 1:
            happens()

    monkeypatch.setattr(TraceWriter, "step", stepping)


def test_a_second_process_is_refused_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both once emptied the file, and its lines were of two responses."""
    assert main([*TRACED, "Tom has"]) == 0
    (whole,) = read_trace("steps.jsonl")
    seconds: list[subprocess.CompletedProcess[str]] = []
    library = "import coolfusion; coolfusion.write_trace('steps.jsonl', [])"

    def start_others() -> None:
        seconds.append(process([*TRACED, "Ann has"]))
        seconds.append(process([], "-c", library))

    at_step(monkeypatch, start_others)
    assert main([*TRACED, "Tom has"]) == 0
    by_command, by_library = seconds
    assert by_command.returncode == 2
    assert 'Another process is writing "steps.jsonl"' in by_command.stderr
    assert "UsageError: Another process is writing" in by_library.stderr
    (again,) = read_trace("steps.jsonl")
    assert again.text == whole.text
    assert len(again.steps) == len(whole.steps)


def test_a_trace_is_replaced_when_the_new_response_begins(
    monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    trace = here / "steps.jsonl"
    trace.write_text("precious")

    def broken(*_: Any) -> Any:
        assert "Another process is writing" in process([*TRACED, "Ann"]).stderr
        raise LoadError("no such model")

    def none() -> Iterator[Generation]:
        raise LoadError("no such response")
        yield

    monkeypatch.setattr("coolfusion.cli.options.load_fusion", broken)
    assert main([*TRACED, "Tom has"]) == 2
    with pytest.raises(LoadError):
        write_trace(trace, none())
    assert trace.read_text() == "precious"
    write_trace(trace, [])
    assert trace.read_text() == ""
    trace.unlink()
    with pytest.raises(LoadError):
        write_trace(trace, none())
    assert not trace.exists()


def test_a_full_disk_keeps_the_steps_before_it(
    monkeypatch: pytest.MonkeyPatch, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    trace = here / "steps.jsonl"
    kept = b""

    def fill() -> None:
        nonlocal kept
        kept = trace.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, before[1]))

    assert main([*TRACED, "Tom has"]) == 0
    said = capsys.readouterr().out
    at_step(monkeypatch, fill)
    try:
        code = main([*TRACED, "Tom has"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr()
    assert (code, printed.out) == (1, said)
    assert "the trace ends here" in printed.err
    assert trace.read_bytes() == kept
    assert len(read_trace(trace)[0].steps) == 2


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "line",
    ["my novel", '{"id": 7, "text": "my own"}', '{"id": 7, "text": "my', '{"kind": "note", '],
)
def test_a_last_line_of_somebody_else_is_kept(
    command: Command, line: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.arguments) == 0
    with command.log.open("a") as file:
        file.write(line + end)
    before = command.log.read_bytes()
    capsys.readouterr()
    assert main(command.arguments) == 2
    assert command.log.read_bytes() == before
    said = capsys.readouterr().err
    assert "was not written by an earlier run" in said
    assert line[:10] in said


def take_away(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    Path("copy").write_bytes(path.read_bytes())
    os.replace("copy", path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [take_away, replace, empty])
def test_an_output_that_is_deleted_or_replaced_meanwhile(
    command: Command, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def happens(number: int) -> None:
        if number == 1:
            change(command.log)

    assert run_while(command, happens) == 1
    printed = capsys.readouterr()
    assert str(command.log) in printed.err
    assert "was deleted or replaced" in printed.err or "was changed by another" in printed.err
    if command.writer is AnswerFile:  # what could not be written is not lost either
        assert json.loads(printed.out)["id"] == "ann"


def test_an_output_deleted_after_the_last_row(capsys: pytest.CaptureFixture[str]) -> None:
    command = generate()
    original, written = AnswerFile.add, []

    def adding(self: AnswerFile, record: dict[str, Any]) -> None:
        original(self, record)
        written.append(record)
        if len(written) == len(ROWS):
            command.log.unlink()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AnswerFile, "add", adding)
        assert main(command.arguments) == 1
    assert "was deleted or replaced" in capsys.readouterr().err


def test_a_full_disk_keeps_what_was_finished(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files is as good as a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = b""

    def fill(number: int) -> None:
        nonlocal kept
        if number == 2:
            kept = command.log.read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, before[1]))

    try:
        code = run_while(command, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr()
    assert code == 1
    assert f'Writing "{command.log}"' in printed.err or str(command.log) in printed.err
    assert "What was finished before is kept" in printed.err
    assert command.log.read_bytes() == kept
    if command.writer is AnswerFile:
        assert json.loads(printed.out)["id"] == 2
    assert main(command.arguments) == 0
    assert command.log.read_bytes().startswith(kept)


def test_control_c_keeps_what_was_finished(command: Command) -> None:
    def interrupt(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    assert run_while(command, interrupt) == 130
    kept = command.log.read_bytes()
    assert kept.count(b"\n") == 2 + (command.writer is not AnswerFile)  # and the settings
    assert main(command.arguments) == 0
    assert command.log.read_bytes().startswith(kept)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_keeps_what_was_finished(how: signal.Signals, here: Path) -> None:
    """As a user stops it: a real process, a real model, a signal from outside."""
    shutil.copytree(builtin_paths()[0], here / "model")
    write_rows([{"prompt": f"Tom has {number} apples and buys 2."} for number in range(16)])
    arguments = "generate -m model --input rows.jsonl --output out.jsonl --batch-size 1 --raw"
    command = [sys.executable, "-m", "coolfusion", *arguments.split(), "--max-new-tokens", "16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = here / "out.jsonl"
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509  it only sets a signal
    ) as running:
        while not (out.exists() and out.read_bytes().count(b"\n") > 2):
            assert running.poll() is None
        running.send_signal(how)
        running.communicate(timeout=60)
    assert running.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    kept = Command([], out, AnswerFile).whole_lines
    assert subprocess.run(command, env=environment, check=False, timeout=120).returncode == 0
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert out.read_bytes().startswith(kept)
    assert sorted(row["id"] for row in rows) == list(range(16))


FUSING = [
    ("-m a -m c", {"models": "['a', 'c']"}),
    ("--names b,a", {"names": "['b', 'a']"}),
    ("--preset paper", {"preset": "'paper'"}),
    ("--end-rule token_contest", {"end_rule": "'token_contest'"}),
    ("--max-new-tokens 9", {"max_new_tokens": "9"}),
    ("--temperature 1", {"temperature": "1.0"}),
    ("--stop x --top-k 3", {"stop": "['x']", "top_k": "3"}),
]
ALONE = [  # of commands that decode by one setting
    ("--strategy mixture", {"strategy": "'mixture'"}),
    ("--reranker mixture --weights 1,2", {"reranker": "'mixture'", "weights": "[1.0, 2.0]"}),
    ("--seed 1", {"seed": "1"}),
]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        *(("generate", *case) for case in [*FUSING, *ALONE]),
        *(("eval", *case) for case in [*FUSING, *ALONE]),
        ("eval", "--no-speculation", {"speculation": "False"}),  # it has a cost
        *(("tune", *case) for case in FUSING),
        ("swarm", "-m a -m c", {"experts": ""}),
        ("swarm", "--dtype float16", {"dtype": "'float16'"}),
        ("swarm", "--utility tests.cli.test_swarm:norm", {"measures": ""}),
    ],
)
def test_other_settings_are_refused_by_name(
    name: str, options: str, said: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]()
    write_llama(here / "c", 7)
    assert main(command.arguments) == 0
    before = command.log.read_bytes()
    capsys.readouterr()
    arguments = [*command.arguments, *options.split()]
    if "-m" in options:
        arguments = [arguments[0], *(word for word in arguments[5:])]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "other settings" in printed
    for key, now in said.items():
        assert re.search(rf"{key} was .+? and is {re.escape(now)}.* now", printed), key
    assert command.log.read_bytes() == before


def test_what_changes_no_answer_may_change(command: Command) -> None:
    assert main(command.arguments) == 0
    before = command.log.read_bytes()
    arguments = [*command.arguments, "--batch-size", "7", "--device", "cpu"]
    if command.arguments[0] in ("generate", "tune"):
        arguments.append("--no-speculation")
    assert main(arguments) == 0
    assert command.log.read_bytes() == before


def same(here: Path) -> str:
    return "rows.jsonl"


def relative(here: Path) -> str:
    return f"../{here.name}/./rows.jsonl"


def symbolic(here: Path) -> str:
    (here / "link").symlink_to(here / "rows.jsonl")
    return "link"


def hard(here: Path) -> str:
    os.link(here / "rows.jsonl", here / "link")
    return "link"


@pytest.mark.parametrize("path", [same, relative, symbolic, hard])
@pytest.mark.parametrize("end", ["", "\n", '{"i', '\n{"id": '])
def test_the_prompts_are_not_written_over(
    path: Callable[[Path], str], end: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = here / "rows.jsonl"
    rows.write_text(rows.read_text().rstrip("\n") + end)
    before, output = rows.read_bytes(), path(here)
    assert main([*generate().arguments[:-1], output]) == 2
    assert rows.read_bytes() == before
    if not end.strip():
        assert f'--output "{output}" is the file of --input' in capsys.readouterr().err


def test_a_task_is_not_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders have files of fixed names, and one of them may be the task."""
    for command in (evaluate(), tune()):
        folder = command.log.parent
        folder.mkdir()
        shutil.copy("rows.jsonl", folder / "report.json")
        before = (folder / "report.json").read_bytes()
        assert main([*command.arguments, "--task", str(folder / "report.json")]) == 2
        assert (folder / "report.json").read_bytes() == before
        assert "is the file of --task" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["generate", "eval", "tune"])
@pytest.mark.parametrize(
    "changed", [{"prompt": "Tom eats"}, {"max_new_tokens": 2}, {"stop": ["a", "b"]}]
)
def test_an_edited_row_is_refused_by_name(
    name: str, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]()
    assert main(command.arguments) == 0
    before = command.log.read_bytes()
    write_rows([{**ROWS[0], **changed}, *ROWS[1:]])
    capsys.readouterr()
    assert main(command.arguments) == 2
    said = capsys.readouterr().err
    assert "'tom' (\"rows.jsonl\" line 1)" in said
    assert "'ann'" not in said
    assert command.log.read_bytes() == before


@pytest.mark.parametrize("name", ["generate", "eval", "tune"])
def test_rows_inserted_above_rows_without_ids(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]()
    assert main(command.arguments) == 0
    before = command.log.read_bytes()
    write_rows([*ROWS[:2], {"prompt": "She eats", "reference": "2"}, *ROWS[2:]])
    capsys.readouterr()
    assert main(command.arguments) == 2
    assert '2 ("rows.jsonl" line 3)' in capsys.readouterr().err
    assert command.log.read_bytes() == before


def test_more_rows_below_are_answered(here: Path) -> None:
    """What can be gone on with is: only the new rows are decoded, beside their own prompts."""
    command = generate()
    assert main(command.arguments) == 0
    before = command.log.read_bytes()
    write_rows([*ROWS, {"prompt": "She eats"}])
    assert main(command.arguments) == 0
    assert command.log.read_bytes().startswith(before)
    rows = [json.loads(line) for line in command.log.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["tom", "ann", 2, 3, 4]
    again = Path("again.jsonl")
    assert main([*command.arguments[:-1], str(again)]) == 0
    others = [json.loads(line) for line in again.read_text().splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in others]


def test_a_deleted_line_is_answered_anew() -> None:
    """The advice that messages give."""
    command = generate()
    assert main(command.arguments) == 0
    lines = command.log.read_text().splitlines(keepends=True)
    command.log.write_text("".join(lines[1:]).rstrip("\n"))  # as editors leave it
    assert main(command.arguments) == 0
    rows = [json.loads(line) for line in command.log.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["ann", 2, 3, "tom"]
    assert rows[-1]["text"] == json.loads(lines[0])["text"]
