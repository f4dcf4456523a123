"""The ``coolfusion`` command: one module per sub-command, errors turned into messages here.

Exit codes: 0 done, 1 something failed on the way, 2 the caller's mistake. A signal gives 128 and its
number: 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from coolfusion import __version__
from coolfusion.cli import (
    evaluate,
    generate,
    inspect,
    merge,
    options,
    swarm,
    tune,
)
from coolfusion.cli.command_parser import CommandParser
from coolfusion.cli.process import (
    abandon,
    check_open,
    exit_code,
    interruptible,
    put,
    ready_streams,
)
from coolfusion.cli.terminal import say
from coolfusion.documents import shown
from coolfusion.errors import CoolfusionError, UsageError

COMMANDS = (generate, evaluate, inspect, merge, swarm, tune)
# What is wrong with a path, and no fault of a disk.
CORRECTABLE = (
    errno.ENOENT,
    errno.EACCES,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EROFS,
)


def parser(command: str = "", defaults: Mapping[str, Any] | None = None) -> argparse.ArgumentParser:
    """The command line, complete with every sub-command; ``command`` with other ``defaults``."""
    top = argparse.ArgumentParser(
        prog="coolfusion",
        description="Fuse language models with different tokenizers as they decode.",
    )
    top.add_argument("--version", action="version", version=f"coolfusion {__version__}")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for each in COMMANDS:
        each.add_parser(commands)
    if defaults:
        commands.choices[command].set_defaults(**defaults)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with ready_streams(), interruptible():
        try:
            return _run(argv)
        except BrokenPipeError:  # the reader has gone
            abandon(sys.stdout)
            return 0
        except KeyboardInterrupt as stop:
            say("\ncoolfusion: interrupted")
            return exit_code(stop)
        except CoolfusionError as error:
            say(f"coolfusion: error: {error}")
            return 2 if isinstance(error, UsageError) else 1
        except OSError as error:
            what = f"{shown(str(error.filename))}: " if error.filename else ""
            say(f"coolfusion: error: {what}{error.strerror or error}")
            return 2 if error.filename and error.errno in CORRECTABLE else 1


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what was wrong, or printed the help
        put("")
        return int(stop.code or 0)
    arguments = _configured(argv, arguments)
    check_open(is_wanted=not getattr(arguments, "output", None))
    code: int = arguments.run(arguments)
    put("")  # what is left of the output, while it can still fail
    return code


def _configured(argv: Sequence[str] | None, arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments together with what their fusion file says, which those given replace."""
    defaults = options.file_defaults(arguments)
    if defaults is None:
        return arguments
    model = defaults.pop("model")  # given anew, it would be appended to
    again = parser(arguments.command, defaults).parse_args(argv)
    again.model, again.config = model, None
    return again
