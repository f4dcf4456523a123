"""The parser of one command: --help shows the options that matter, --help-all every one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, final

from coolfusion.config.spelling import did_you_mean


@final
class CommandParser(argparse.ArgumentParser):
    """Options of a command, those that matter told apart, with a hint for one that does not exist."""

    everything = False
    matter: frozenset[str] = frozenset()

    def shows(self, *names: str) -> None:
        """Let --help show these options, by the names of their values."""
        self.matter |= set(names)

    def format_help(self) -> str:
        """The help, which leaves out what does not matter unless ``everything`` is wanted."""
        left_out = [each for each in self._actions if not (self.everything or self._matters(each))]
        helps = [each.help for each in left_out]
        for each in left_out:
            each.help = argparse.SUPPRESS
        text = super().format_help()
        for each, said in zip(left_out, helps, strict=True):
            each.help = said
        return text

    def parse_known_args(  # type: ignore[override] # one signature for the overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As any parser, but an option that does not exist is refused here, with a hint."""
        found, rest = super().parse_known_args(args, namespace)
        unknown = next((each.partition("=")[0] for each in rest if each.startswith("--")), None)
        if unknown is not None:
            hint = did_you_mean(unknown, self._spellings())
            self.error(f"There is no option {unknown}. {hint or 'See --help-all.'}")
        return found, rest

    def format_usage(self) -> str:
        """One line, as an error shows it above its message."""
        return f"usage: {self.prog} [OPTIONS]; {self.prog} --help shows them\n"

    def _spellings(self) -> dict[str, str]:
        """Options by how they are written here, and by their names elsewhere."""
        flags = self._option_string_actions
        elsewhere = {each.dest: flag for flag, each in flags.items()}
        return {**elsewhere, **{flag: flag for flag in flags}}

    def _matters(self, action: argparse.Action) -> bool:
        return not action.option_strings or action.required or action.dest in self.matter


@final
class HelpAll(argparse.Action):
    """Prints the whole help and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        """Print it."""
        if isinstance(parser, CommandParser):
            parser.everything = True
        parser.print_help()
        parser.exit()


@final
class DefaultsFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in which every option states its default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required:
            return f"{text} (required)"
        if not action.option_strings or action.dest == argparse.SUPPRESS or "default" in text:
            return text
        if isinstance(action.default, bool):
            return f"{text} (default: off)"
        return f"{text} (default: {'none' if action.default in (None, []) else '%(default)s'})"


def add_command(
    commands: Any, name: str, *, summary: str, description: str, example: str
) -> CommandParser:
    """The parser of a new command. Its ``example`` ends the help."""
    parser: CommandParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=DefaultsFormatter,
        add_help=False,
    )
    parser.add_argument(
        "-h",
        "--help",
        action="help",
        default=argparse.SUPPRESS,
        dest=argparse.SUPPRESS,
        help="show the options that matter and exit",
    )
    parser.add_argument(
        "--help-all",
        action=HelpAll,
        nargs=0,
        default=argparse.SUPPRESS,
        dest=argparse.SUPPRESS,
        help="show every option and exit",
    )
    parser.shows(argparse.SUPPRESS)
    return parser
