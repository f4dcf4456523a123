"""The settings that a resumed run must share with the run before it."""

from __future__ import annotations

import argparse
from typing import Any

from coolfusion import __version__
from coolfusion.cli.options import kept_as, said
from coolfusion.config import options as table

# Options of commands, beside the table, that change no answer: where things are, what is shown
# and how answers are judged. Prompts and rows are compared one by one, by their digests.
_FREE = frozenset(
    "command run task metric systems search trials vary held_out show limit include_path "
    "prompt prompt_for input output json explain trace n_best quiet no_color "
    "batch_size max_batch_tokens".split()
)


def resume_settings(arguments: argparse.Namespace, *free: str) -> dict[str, Any]:
    """Every option that changes an answer, by name, as JSON has it.

    Options of the table have their defaults where they are not given, so that giving a default
    changes nothing. A command's own options are left out where they are not given. ``free`` names
    options that the command keeps apart in another way.
    """
    in_table = {kept_as(each) for each in table.OPTIONS}
    own = {
        name: value
        for name, value in vars(arguments).items()
        if name not in in_table | _FREE and value is not None and value != []
    }
    settings = {**table.resume_settings(said(arguments)), **own}
    return {name: value for name, value in settings.items() if name not in free}


def brief_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings unlike the defaults, for every line of a file that people read.

    The version stands for the defaults, which may change with it.
    """
    defaults = table.resume_settings({})
    settings = resume_settings(arguments)
    unlike = {name: value for name, value in settings.items() if value != defaults.get(name)}
    return {"version": __version__, **unlike}


def with_defaults(brief: dict[str, Any]) -> dict[str, Any]:
    """Brief settings with the defaults that they leave out, so that both values can be named."""
    return {**table.resume_settings({}), **brief}
