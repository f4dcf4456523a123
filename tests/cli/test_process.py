"""The command line as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import coolfusion
from tests.cli.conftest import QUESTION
from tests.interrupts import hear_ctrl_c

ROOT = Path(coolfusion.__file__).parents[1]
MODULE = [sys.executable, "-m", "coolfusion"]
SCRIPT = Path(sys.executable).with_name("coolfusion")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def call(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command,
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        **settings,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["generate", "--preset", "best", "Hi"], 2), (["generate", "--nope"], 2)],
)
def test_help_and_mistakes_load_no_model_library(arguments: list[str], code: int) -> None:
    probe = (
        "import sys; from coolfusion.cli import main; code = main(sys.argv[1:]); "
        "loaded = {'torch', 'transformers'} & set(sys.modules); assert not loaded, loaded; "
        "sys.exit(code)"
    )
    done = call([sys.executable, "-c", probe, *arguments])
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_path_ends_without_a_traceback(tmp_path: Path) -> None:
    done = call([*MODULE, "generate", "-m", str(tmp_path / "none"), "Hi"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("coolfusion: error: ")
    assert "Traceback" not in done.stderr


def test_text_arrives_piece_by_piece_and_a_closed_pipe_is_no_error(
    models: dict[str, Path],
) -> None:
    command = [*MODULE, "generate", "-q", "-m", str(models["sums"]), "--raw", "Tom has 3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = os.read(process.stdout.fileno(), 1000)
        process.stdout.close()
        complaint = process.stderr.read()
        code = process.wait(60)
    assert 0 < len(first) < 60
    assert code in (0, 141)
    assert complaint == b""


def test_control_c_ends_a_process_with_130(models: dict[str, Path]) -> None:
    command = [*MODULE, "generate", "-m", str(models["groups"]), "--temperature", "3"]
    command += ["--max-new-tokens", "400", "--raw", QUESTION]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509  it only sets a signal
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 1)
        process.send_signal(signal.SIGINT)
        rest, complaint = process.stdout.read(), process.stderr.read()
        code = process.wait(60)
    assert (code, rest[-1:]) == (130, b"\n")
    assert b"interrupted" in complaint
    assert b"Traceback" not in complaint


@pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed")
def test_the_installed_script_answers() -> None:
    done = call([str(SCRIPT), "generate", "--max-new-tokens", "8", QUESTION])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "steps" in done.stderr
