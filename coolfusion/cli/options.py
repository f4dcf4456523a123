"""Options that commands share, made from the one table: which models, how to fuse, how far to go."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from coolfusion.cli.command_parser import CommandParser
from coolfusion.cli.progress import ProgressBar
from coolfusion.config.kinds import (
    FLAG,
    MIXTURE,
    SEGMENTS,
    TEXT_OR_TEXTS,
    TEXTS,
    WEIGHTS,
    Option,
)
from coolfusion.config.options import (
    BY_NAME,
    FUSION,
    MODELS,
    OPTIONS,
    RESPONSE,
    SPEED,
    STRATEGY,
    options_of,
)
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.decoding.request import Request
    from coolfusion.fusion import FusionModel
    from coolfusion.merging import Adapter

# Where the value of an option is kept, if not under its own name: one -m names one model.
_KEPT_AS = {"models": "model"}


def add_groups(parser: CommandParser, *groups: str) -> None:
    """Add the options of these groups of the table, under a heading each."""
    for group in groups:
        section = parser.add_argument_group(group)
        for option in options_of(group):
            add_option(section, option)
            if option.matters:
                parser.shows(kept_as(option))


def add_option(section: argparse._ActionsContainer, option: Option) -> None:
    """Add one option of the table."""
    settings: dict[str, Any] = {"dest": kept_as(option), "default": option.default}
    text = option.help
    if option.kind is FLAG:
        settings["action"] = "store_false" if option.default else "store_true"
        text = f"switch off: {text}" if option.default else text
    else:
        settings |= {"type": option.kind.read, "metavar": option.metavar}
        settings["choices"] = option.choices
    if option.repeats:
        settings["action"] = "append"
        settings["default"] = None if option.default is None else []
        text += "; repeatable"
    if option.said_by_default is not None:
        settings["default"] = option.said_by_default
    section.add_argument(*option.flags, help=f"{text} (default: {option.default_text})", **settings)


def options_table() -> str:
    """Two Markdown tables for docs/use/options.md: every option, and where some cannot be said."""
    from coolfusion.evaluation.tables import markdown_table

    options = [
        (
            f"`{each.name}`",
            " ".join(f"`{flag}`" for flag in each.flags),
            each.wanted,
            each.default_text,
            each.strategy or "both",
            each.help,
        )
        for each in OPTIONS
    ]
    missing = [
        (f"`{each.name}`", place, reason)
        for place, reasons in (
            ("`fusion.toml`", [each.not_in_file for each in OPTIONS]),
            ("the harness", [each.not_in_harness for each in OPTIONS]),
        )
        for each, reason in zip(OPTIONS, reasons, strict=True)
        if reason
    ]
    heads = ("option", "command line", "values", "default", "strategy", "what it does")
    reasons = markdown_table(("option", "not in", "because"), missing, is_markdown=True)
    return "\n".join([*markdown_table(heads, options, is_markdown=True), "", *reasons])


def said(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the table that a command has, by name."""
    kept = [each for each in OPTIONS if hasattr(arguments, kept_as(each))]
    return {each.name: _read(each, getattr(arguments, kept_as(each))) for each in kept}


def load_fusion(
    arguments: argparse.Namespace, when_opened: Callable[[Sequence[Any]], None] | None = None
) -> FusionModel:
    """The fusion that the options describe; a terminal is shown how far loading has come.

    ``when_opened`` is that of ``FusionModel.from_pretrained``: it sees the tokenizers first.
    """
    from coolfusion.config.plan import check_strategy_options, plan_fusion
    from coolfusion.fusion import FusionModel

    names = {each.name for each in options_of(MODELS, FUSION, SPEED, STRATEGY)}
    given = {name: value for name, value in said(arguments).items() if name in names}
    if given.get("strategy") != MIXTURE:
        check_strategy_options(SEGMENTS, given)
    plan_fusion(given["models"], given)
    quiet_transformers()
    with ProgressBar("loading", "model") as bar:
        return FusionModel.from_pretrained(
            **given,
            progress=lambda name, done, total: bar.show(done, total, name),
            when_opened=when_opened,
        )


def checkpoints_of(arguments: argparse.Namespace) -> list[str | Adapter]:
    """What ``-m`` names, in order, with adapters on the checkpoint of ``--on``.

    A single one that is a fusion file stands for the models it names; what else it says is about
    decoding. Raises ``UsageError`` for a file without models, and for ``--on`` without adapters.
    """
    from coolfusion.config.file import fusion_file_among, read_fusion_file
    from coolfusion.merging import Adapter
    from coolfusion.merging.adapters import is_adapter

    named = list(arguments.model or ())
    file = fusion_file_among(named)
    if file is not None:
        named = list(read_fusion_file(file).models)
        if not named:
            raise UsageError(f'The fusion file "{file}" names no models. Name them with -m.')
    models = [
        Adapter(model, arguments.on) if arguments.on is not None and is_adapter(model) else model
        for model in named
    ]
    if arguments.on is not None and all(isinstance(model, str) for model in models):
        raise UsageError("--on names the checkpoint of adapters, and none of the models is one.")
    return models


def request_of(arguments: argparse.Namespace) -> Request:
    """The request that the options describe. Raises ``UsageError`` for impossible limits."""
    from coolfusion.decoding.request import request

    given = said(arguments)
    return request(**{each.name: given[each.name] for each in options_of(RESPONSE)})


def file_defaults(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What a fusion file puts in the place of options that were not given, by their names here.

    The file is that of ``--config``, or a single ``-m`` that is one. None: there is no file.
    """
    from coolfusion.config.file import fusion_file_among, settled_options

    if not hasattr(arguments, "config"):
        return None
    if arguments.config is None and fusion_file_among(arguments.model) is None:
        return None
    keys = ("reranker", "weights", "lead", "strategy")
    given = {key: getattr(arguments, key, None) for key in keys}
    settled = settled_options(arguments.model, arguments.config, given)
    about_segments = hasattr(arguments, "reranker") and not hasattr(arguments, "strategy")
    if settled.get("strategy") == MIXTURE and about_segments:
        raise UsageError(
            f'The fusion file has the strategy "{MIXTURE}", and coolfusion {arguments.command} is about '
            "segments. Leave the key out of the file, or use generate or eval."
        )
    settled.setdefault("models", None)
    kept = {kept_as(BY_NAME[name]): value for name, value in settled.items()}
    return {name: value for name, value in kept.items() if hasattr(arguments, name)}


def kept_as(option: Option) -> str:
    return _KEPT_AS.get(option.name, option.name)


def _read(option: Option, value: Any) -> Any:
    """A value of the command line, or of a fusion file in its place, as Python takes it."""
    if option.kind is WEIGHTS:
        return parse_weights(value)
    if option.kind in (TEXTS, TEXT_OR_TEXTS) and not option.repeats:
        return split_list(value) if option.kind is TEXTS else _one_or_list(value)
    return value


def parse_weights(
    text: str | dict[str, float] | None,
) -> dict[str, float] | list[float] | None:
    """Weights written as ``1,2,1`` or ``name=1,name=2``, or as a fusion file has them."""
    if text is None or isinstance(text, dict):
        return text
    parts = [part.strip() for part in text.split(",")]
    try:
        if all("=" in part for part in parts):
            return {part.rpartition("=")[0]: float(part.rpartition("=")[2]) for part in parts}
        return [float(part) for part in parts]
    except ValueError:
        raise UsageError(
            f'--weights is "{text}"; write numbers as 1,2,1 or name=1,name=2.'
        ) from None


def split_list(text: str | list[str] | None) -> list[str] | None:
    """Comma-separated words, or the list of a fusion file, or None where nothing was given."""
    return [part.strip() for part in text.split(",")] if isinstance(text, str) else text


def quiet_transformers() -> None:
    """Keep the library's own progress bars and advice off the terminal."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _one_or_list(text: str | None) -> str | list[str] | None:
    parts = split_list(text)
    return parts[0] if parts is not None and len(parts) == 1 else parts
