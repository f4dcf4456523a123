"""Signals at every moment: no traceback, the exit code of shells, and finished work is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coolfusion.cli import main
from coolfusion.cli.process import Interrupted, exit_code, interruptible
from tests.cli.test_process import environment
from tests.interrupts import hear_ctrl_c

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

# A process that is sent a signal as soon as it imports a module.
AT_IMPORT = """
import os, sys
class Sender:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Sender())
from coolfusion.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("coolfusion.cli", signal.SIGINT),
        ("numpy", signal.SIGTERM),
        ("torch", signal.SIGINT),
        ("torch", signal.SIGHUP),
    ],
)
def test_the_first_moments(module: str, number: signal.Signals, models: dict[str, Path]) -> None:
    code = AT_IMPORT.format(module=module, number=int(number))
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", "-m", str(models["sums"]), "--raw", "Tom has"],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        preexec_fn=hear_ctrl_c,
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_its_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)
    try:
        monkeypatch.setattr(
            "coolfusion.cli.options.load_fusion", lambda *_: os.kill(os.getpid(), number)
        )
        assert main(["generate", "--raw", "Tom has"]) == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == "\ncoolfusion: interrupted\n"


def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with pytest.raises(Interrupted) as caught, interruptible():
        _send_twice()
    assert exit_code(caught.value) in (130, 143)
    assert left == [143]
    assert exit_code(KeyboardInterrupt()) == 130


def _send_twice() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
