"""Faults that are done to a command while it runs in a copy of this process.

A moment is the ``n``-th call or return of anything, or the ``n``-th call or return of what touches
files. The first kind is met within computations, the second just before and after each write.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from coolfusion.cli import main

WITNESS = "witness"  # one byte for each piece of work that was said to be finished
# How a command ends that hears one of these; SIGKILL is not heard.
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# What changes a file or a folder, by the names of the functions in C.
TOUCHES = frozenset(
    "open write writelines flush close fsync flock truncate rename replace unlink remove mkdir rmdir link".split()
)


@dataclass(frozen=True)
class Moment:
    """The ``number``-th event of a run; ``of_files``: only those that touch files count."""

    number: int
    of_files: bool = False

    def watch(self, happens: Callable[[], None]) -> None:
        """Call ``happens`` once, when the moment has come in this thread."""
        count = 0

        def profile(_: FrameType, event: str, function: Any) -> None:
            nonlocal count
            if self.of_files and not (
                event.startswith("c_") and getattr(function, "__name__", "") in TOUCHES
            ):
                return
            count += 1
            if count == self.number:
                sys.setprofile(None)
                happens()

        sys.setprofile(profile)


def count_events(call: Callable[[], Any]) -> tuple[int, int]:
    """How many events a call is made of: all, and those that touch files."""
    counts = [0, 0]

    def profile(_: FrameType, event: str, function: Any) -> None:
        counts[0] += 1
        if event.startswith("c_") and getattr(function, "__name__", "") in TOUCHES:
            counts[1] += 1

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return counts[0], counts[1]


@dataclass(frozen=True)
class Signalled:
    """A signal from outside: SIGKILL as of a machine that goes down, others as a user sends them."""

    signal: signal.Signals
    moment: Moment

    def begin(self) -> None:
        """Wait for the moment."""
        if self.signal in SIGNALS:  # which a shell lets its background jobs ignore
            signal.signal(self.signal, self._end)
        self.moment.watch(lambda: os.kill(os.getpid(), self.signal))

    def _end(self, number: int, _: FrameType | None) -> None:
        # Before or after the command itself: as the interpreter does it.
        os._exit(SIGNALS[signal.Signals(number)])


@dataclass(frozen=True)
class FullDisk:
    """No file may grow beyond ``num_bytes``: a write comes through in part, the next one fails."""

    num_bytes: int

    def begin(self) -> None:
        """Set the limit, for this process only."""
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, resource.RLIM_INFINITY))


@dataclass(frozen=True)
class SecondProcess:
    """The same command once more, from its beginning to its end, while the first one waits."""

    moment: Moment
    arguments: tuple[str, ...]

    def begin(self) -> None:
        """Wait for the moment."""
        self.moment.watch(lambda: self._check(in_a_copy(self._run)))

    def _run(self) -> int:
        return main(list(self.arguments))

    def _check(self, second: Ended) -> None:
        # It was refused, or had the place for itself.
        if second.code not in (0, 2):
            print("Traceback of the second process:", second)


@dataclass(frozen=True)
class Replaced:
    """A file of the user's is replaced by another while the command runs."""

    moment: Moment
    file: Path
    text: str

    def begin(self) -> None:
        """Wait for the moment."""
        self.moment.watch(self._replace)

    def _replace(self) -> None:
        other = self.file.with_suffix(".new")
        other.write_text(self.text)
        os.replace(other, self.file)


Fault = Signalled | FullDisk | SecondProcess | Replaced


@dataclass(frozen=True)
class Ended:
    """The exit code of a copy, or minus the signal that killed it, and all that it said."""

    code: int
    said: str


def run_with(fault: Fault, arguments: tuple[str, ...], prepare: Callable[[], None]) -> Ended:
    """How a command ends to which ``fault`` is done; ``prepare`` is called in the copy."""

    def run() -> int:
        prepare()
        fault.begin()
        try:
            return main(list(arguments))
        finally:
            sys.setprofile(None)

    return in_a_copy(run)


def in_a_copy(run: Callable[[], int]) -> Ended:
    """``run`` to its end in a fork of this process."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, and there are none
        child = os.fork()
    if child == 0:
        _run_and_exit(run, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)


def _run_and_exit(run: Callable[[], int], writing: int) -> NoReturn:
    code = 70
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False))
        code = run()
    except KeyboardInterrupt:
        code = SIGNALS[signal.SIGINT]  # it came before or after the command itself
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
