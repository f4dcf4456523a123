"""Standard streams and outputs of every kind: closed, broken, full, narrow, a pipe, a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import tty
from pathlib import Path
from typing import Any

import pytest

from coolfusion import FusionModel
from coolfusion.cli import main
from coolfusion.cli.process import as_json, guarded, harmless, put, raw
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.terminal import Painter, say
from coolfusion.errors import CoolfusionError
from coolfusion.testing import toy_source
from tests.cli.test_process import MODULE, environment
from tests.loaded_fusion import loading

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals are POSIX")

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\rd\be\x9b31mf\u202eg\x7fh\u2066i\x00j"
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TEXTS = [f"Tom has {HOSTILE} apples.\tNow", f"Ann has {HOSTILE} pears.\nNow"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, where toys that write control characters are the fusion."""
    fusion = FusionModel([toy_source("a\x1b[1m", TEXTS), toy_source("b", TEXTS[::-1])])
    monkeypatch.setattr("coolfusion.cli.options.load_fusion", loading(fusion))
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "tom", "prompt": "Tom has"}, {"prompt": "Ann has"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


class Screen:
    """A terminal of its own, which keeps what is written to it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        tty.setraw(theirs)  # so that line feeds come through as they were written
        self.stream = os.fdopen(theirs, "w", encoding="utf-8", newline="\n")

    def read(self) -> str:
        """All that was written, which is less than a terminal holds."""
        self.stream.flush()
        return os.read(self._ours, 1_000_000).decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def screen() -> Any:
    made = Screen()
    yield made
    made.close()


def without_own(text: str) -> str:
    """What is left of a terminal's text without colours and what a bar does."""
    return re.sub("\x1b\\[(?:\\d+m|A|K)|\r", "", text)


GENERATE = ["generate", "-m", "a", "-m", "b", "--raw", "--max-new-tokens", "60"]


@pytest.mark.parametrize(
    "options",
    [
        ["-q"],
        ["--explain"],
        ["--json"],
        ["--n-best", "2"],
        ["--no-color"],
        ["--input"],
        ["-m", HOSTILE],
    ],
)
def test_nothing_of_a_model_acts_on_a_terminal(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", screen.stream)
    monkeypatch.setattr(sys, "stderr", screen.stream)
    rest = ["rows.jsonl"] if options == ["--input"] else ["Tom has"]
    assert main([*GENERATE, *options, *rest]) == 0
    text = screen.read()
    assert len(text) > 40
    assert ACTIVE.search(without_own(text)) is None
    assert sys.stdout is screen.stream  # as it was before


def test_errors_that_echo_what_was_typed_do_not_act_either(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen.stream)
    for arguments in (
        ["generate", f"--{HOSTILE}", "x"],
        ["inspect", "--boundary", HOSTILE, "--text", "x"],
        ["generate", "--input", "\x1b[2J.jsonl"],
        ["generate", "--stop", "", "--system", "\x1b", "x"],
        [HOSTILE],
    ):
        assert main(arguments) == 2
    assert ACTIVE.search(without_own(screen.read())) is None


def test_to_a_pipe_or_a_file_the_text_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-q", "--json", "Tom has"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    assert "\x1b" in text
    assert main([*GENERATE, "-q", "Tom has"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == text.rstrip("\n")


def test_a_sequence_in_pieces_is_harmless_too(screen: Screen) -> None:
    stream = guarded(screen.stream)
    for char in HOSTILE:
        stream.write(char)
    stream.writelines([HOSTILE[:3], HOSTILE[3:]])
    assert screen.read() == harmless(HOSTILE) * 2


def test_every_character_is_kept_or_written_out() -> None:
    written = {
        char: harmless(char)
        for char in map(chr, [*range(0x3000), *range(0xD800, 0x10000), 0x1F600])
    }
    changed = {char for char, shown in written.items() if shown != char}
    assert {char for char in written if ACTIVE.match(char)} <= changed
    assert not changed & set("\n\t \u200d\u00ad\u0301abc\u65e5\U0001f600")
    assert all(json.loads(f'"{written[char]}"') == char for char in changed)


def test_colours_and_bars_pass(screen: Screen) -> None:
    stream = guarded(screen.stream)
    painter = Painter(["a"], stream)
    painter.write(painter.by_drafters("x\x07y", ["a"]))
    painter.say(painter.plain("z\x07"))
    with ProgressBar("loading", "model", stream) as bar:
        bar.show(1, 2, "na\x07me")
    text = screen.read()
    assert text.startswith("\x1b[36mx\\u0007y\x1b[0mz\\u0007\n")
    assert "na\\u0007me" in text
    assert "\x07" not in text
    assert raw(stream) is screen.stream


def test_a_narrow_encoding_keeps_json_json(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    put(as_json({"x": "\u00e9\u65e5"}, narrow), narrow)
    assert json.loads(narrow.buffer.getvalue()) == {"x": "\u00e9\u65e5"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        ("/dev/full", 1, "/dev/full"),
        ("/dev/null", 0, ""),
        ("-", 0, ""),
        ("pipe", 2, "Nobody reads"),
        ("socket", 2, "socket"),
        (".", 2, "folder"),
        ("", 2, "empty"),
        ("x" * 5000, 2, "too long"),
        ("loop", 2, "symbolic links"),
        ("none/x", 2, "no folder"),
        ("rows.jsonl/x", 2, "no folder"),
        ("a\0b", 2, "null"),
    ],
)
def test_outputs_that_are_no_files(
    here: Path, capsys: pytest.CaptureFixture[str], output: str, code: int, said: str
) -> None:
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        assert main([*GENERATE, "--input", "rows.jsonl", "--output", output]) == code
    got = capsys.readouterr()
    assert said in got.err
    assert (got.out.count('"asked"') == 2) == (output == "-")
    if output != "-":
        assert main([*GENERATE, "-q", "--trace", output, "Tom has"]) in (code, 1 if code else 0)
        assert said in capsys.readouterr().err
    left = {"pipe", "loop", "socket", "rows.jsonl"}
    assert {each.name for each in here.iterdir()} == left


@pytest.mark.parametrize("command", ["eval", "tune", "swarm"])
@pytest.mark.parametrize("output", ["/dev/full", "-", "", "x" * 5000, "loop", "none/x", "pipe"])
def test_folders_that_are_none(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, output: str
) -> None:
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    Path("task.jsonl").write_text('{"prompt": "Tom", "reference": "3"}\n' * 1)
    before = set(here.iterdir())
    assert main([command, "-m", "a", "-m", "b", "--task", "task.jsonl", "--output", output]) == 2
    assert capsys.readouterr().err.startswith("coolfusion: error: ")
    assert set(here.iterdir()) == before


def test_a_pipe_with_a_reader_gets_the_rows(here: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert main([*GENERATE, "--input", "rows.jsonl", "--output", "pipe"]) == 0
    lines = os.read(reader, 1_000_000).decode().splitlines()
    os.close(reader)
    assert {json.loads(line)["id"] for line in lines} == {"tom", 1}


def test_a_full_disk_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*GENERATE, "-q", "Tom has"]) == 1
        full.close()  # nothing is left to be written
    assert "Writing standard output failed: No space left" in capsys.readouterr().err
    with open("/dev/full", "w", encoding="utf-8") as full, pytest.raises(CoolfusionError):
        put("x" * 100_000, full)


def test_streams_that_are_closed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdin", None)
        assert main(["generate"]) == 2
        assert "Standard input is closed" in capsys.readouterr().err
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        assert main([*GENERATE, "Tom has"]) == 2
        assert "Standard output is closed" in capsys.readouterr().err
        assert main([*GENERATE, "--input", "rows.jsonl", "--output", "out.jsonl"]) == 0
        assert main(["--help"]) == 0
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stderr", None)
        assert main([*GENERATE, "--explain", "Tom has"]) == 0
        assert main(["generate", "--top-k=-1", "x"]) == 2
        say("x")
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_descriptors_that_are_closed_are_not_given_to_files(
    models: dict[str, Path], here: Path
) -> None:
    """A real process without a single stream: what libraries print must not end in the output."""
    options = "--raw -q --max-new-tokens 2 --input rows.jsonl --output out.jsonl"
    command = [*MODULE, "generate", "-m", str(models["sums"]), *options.split()]
    quoted = " ".join(f"'{each}'" for each in command)
    done = subprocess.run(
        ["sh", "-c", f"{quoted} <&- >&- 2>&-"],
        check=False,
        env=environment(),
        timeout=120,
        cwd=here,
    )
    assert done.returncode == 0
    assert [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()]


def test_a_folder_and_strange_bytes_on_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Folder(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: object) -> int:
            raise IsADirectoryError(21, "Is a directory")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Folder())))
    assert main(["generate"]) == 2
    assert "Is a directory" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffTom has\r\n".encode())))
    assert main([*GENERATE, "-q", "--json"]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x00\xff")))
    assert main(["generate"]) == 2


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device that never ends")
@pytest.mark.parametrize("option", ["generate --input", "eval --output out --task"])
@pytest.mark.parametrize(("rows", "said"), [("/dev/zero", "more than"), ("pipe", "named pipe")])
def test_rows_that_never_end(
    here: Path, capsys: pytest.CaptureFixture[str], option: str, rows: str, said: str
) -> None:
    os.mkfifo("pipe")
    command, *words = option.split()
    assert main([command, "-m", "a", "-m", "b", *words, rows]) == 2
    printed = capsys.readouterr().err
    assert f'Cannot read "{rows}"' in printed
    assert said in printed
