"""--help shows what matters, --help-all everything; every option states its default."""

from __future__ import annotations

import re

import pytest

from coolfusion.cli import COMMANDS, parser
from coolfusion.cli.command_parser import CommandParser
from tests.cli.conftest import Run

NAMES = ["generate", "eval", "inspect", "merge", "swarm", "tune"]
OPTION = re.compile(r"^  (?:-\w(?: \w+)?, )?(--[a-z-]+)", re.MULTILINE)
HELP = {"--help", "--help-all"}


def command(name: str) -> CommandParser:
    (commands,) = (a for a in parser()._actions if isinstance(a.choices, dict))
    found = commands.choices[name]
    assert isinstance(found, CommandParser)
    return found


def shown(text: str) -> list[str]:
    return [option for option in OPTION.findall(text) if option not in HELP]


@pytest.mark.parametrize("name", ["generate", "eval", "tune"])
def test_help_shows_fifteen_options(run: Run, name: str) -> None:
    got = run(name, "--help")
    assert (got.code, got.err) == (0, "")
    assert len(shown(got.out)) == len(set(shown(got.out))) == 15
    assert "--max-new-tokens" in got.out
    assert "--budget" not in got.out


@pytest.mark.parametrize("name", NAMES)
def test_help_all_shows_every_option(run: Run, name: str) -> None:
    got = run(name, "--help-all")
    assert (got.code, got.err) == (0, "")
    known = {o for o in command(name)._option_string_actions if o.startswith("--")} - HELP
    assert set(shown(got.out)) == known
    few = run(name, "--help")
    assert few.code == 0
    assert set(shown(few.out)) <= known
    assert len(shown(few.out)) <= 15


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", sorted(HELP))
def test_help_ends_with_an_example_that_can_be_read(run: Run, name: str, flag: str) -> None:
    example = run(name, flag).out.rstrip("\n").rpartition("example:\n  ")[2]
    assert example.startswith(f"coolfusion {name} ")
    options = {word for word in example.split() if word.startswith("-")}
    assert options <= command(name)._option_string_actions.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_option_states_its_default(name: str) -> None:
    formatter = command(name)._get_formatter()
    for action in command(name)._actions:
        if action.option_strings and not HELP & set(action.option_strings):
            text = formatter._expand_help(action)
            assert "default" in text or "required" in text, action.option_strings
            assert len(text.partition("(default")[0].strip()) > 3, action.option_strings


def test_there_are_no_other_commands() -> None:
    assert len(COMMANDS) == len(NAMES)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--max-tokens", "--max-new-tokens"),
        ("--max-length=5", "--max-new-tokens"),
        ("--stop-strings", "--stop"),
        ("--torch-dtype", "--dtype"),
        ("--num-return-sequences", "--n-best"),
        ("--do-sample", "--temperature"),
        ("--bundary", "--boundary"),
        ("--num-samples", "--drafts"),
    ],
)
def test_an_option_that_does_not_exist_gets_a_hint(run: Run, given: str, meant: str) -> None:
    got = run("generate", "prompt", given)
    assert (got.code, got.out) == (2, "")
    assert f"There is no option {given.partition('=')[0]}. Did you mean {meant}?" in got.err


def test_penalties_are_not_offered(run: Run) -> None:
    got = run("generate", "prompt", "--repetition-penalty", "1.1")
    assert got.code == 2
    assert "Penalties on tokens are not offered" in got.err
