"""The ``coolfusion`` command: one module per sub-command, errors turned into messages here.

Exit codes: 0 done, 1 something failed on the way, 2 the caller's mistake, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
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
from coolfusion.errors import CoolfusionError, UsageError

COMMANDS = (generate, evaluate, inspect, merge, swarm, tune)


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
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what was wrong, or printed the help
        return int(stop.code or 0)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a narrow terminal loses no response
    try:
        arguments = _configured(argv, arguments)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone; writing to it again at exit would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ncoolfusion: interrupted", file=sys.stderr)
        return 130
    except (CoolfusionError, OSError) as error:
        print(f"coolfusion: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _configured(argv: Sequence[str] | None, arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments together with what their fusion file says, which those given replace."""
    defaults = options.file_defaults(arguments)
    if defaults is None:
        return arguments
    model = defaults.pop("model")  # given anew, it would be appended to
    again = parser(arguments.command, defaults).parse_args(argv)
    again.model, again.config = model, None
    return again
