"""``coolfusion inspect``: how each tokenizer cuts a text, and which cuts all of them ratify."""

from __future__ import annotations

import argparse
from typing import Any

from coolfusion.cli import files, options
from coolfusion.cli.command_parser import add_command
from coolfusion.cli.process import as_json, put
from coolfusion.config.options import MODELS
from coolfusion.errors import UsageError

_VISIBLE = str.maketrans({" ": "\u00b7", "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"})


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser = add_command(
        commands,
        "inspect",
        summary="show how tokenizers cut a text",
        description="Show how each tokenizer cuts a text and which cuts all of them ratify.",
        example='coolfusion inspect -m folder/one -m folder/two --text "Tom has 3 apples."',
    )
    parser.add_argument(
        "--text", metavar="TEXT", help="the text; - reads standard input (default: that)"
    )
    parser.add_argument("--boundary", default="words", help="the rule that proposes cuts")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    options.add_groups(parser, MODELS)
    parser.shows("text", "boundary", "json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report and return the exit code."""
    report = inspect(
        files.read_text(arguments.text),
        arguments.model,
        options.split_list(arguments.names),
        arguments.boundary,
        trust_remote_code=arguments.trust_remote_code,
    )
    put(as_json(report) if arguments.json else f"{_lines(report)}\n")
    return 0


def inspect(
    text: str,
    models: list[str] | None,
    names: list[str] | None,
    boundary: str,
    *,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Tokens per source and, for every proposed cut, who refuses it."""
    from coolfusion.builtin import builtin_paths
    from coolfusion.tokenization.alignment import is_ratified
    from coolfusion.tokenization.boundaries import boundary_named

    rule = boundary_named(boundary)
    if not text:
        raise UsageError("The text is empty, so there is nothing to cut. Give some.")
    options.quiet_transformers()
    from coolfusion.backends.huggingface.loading import load_tokenizer, strategy_at
    from coolfusion.backends.naming import label_of
    from coolfusion.backends.source import check_names

    paths: list[Any] = list(models or builtin_paths())
    labels = names or [label_of(path) for path in paths]
    if len(labels) != len(paths):
        raise UsageError(f"{len(paths)} models were given {len(labels)} names. Give one each.")
    check_names(labels)
    loaded = {
        label: load_tokenizer(path, trust_remote_code=trust_remote_code, lossy_ok=True)
        for label, path in zip(labels, paths, strict=True)
    }
    ways = {
        label: strategy_at(path, trust_remote_code=trust_remote_code)
        for label, path in zip(labels, paths, strict=True)
    }
    return {
        "tokens": {
            name: [_piece(tokenizer.piece(token)) for token in tokenizer.encode(text)]
            for name, tokenizer in loaded.items()
        },
        "losses": {
            name: list(tokenizer.losses) for name, tokenizer in loaded.items() if tokenizer.losses
        },
        "runs": {name: way for name, way in ways.items() if way is not None},
        "unfollowed": {
            name: what
            for name, tokenizer in loaded.items()
            if (what := getattr(tokenizer, "unfollowed", None))
        },
        "cuts": [
            {
                "position": cut,
                "left": text[max(0, cut - 12) : cut],
                "right": text[cut : cut + 12],
                "refused_by": [
                    name for name, tok in loaded.items() if not is_ratified(text, cut, [tok])
                ],
            }
            for cut in rule.propose(text)
        ],
    }


def _piece(piece: bytes | None) -> str:
    if piece is None:
        return "<?>"
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)


def _lines(report: dict[str, Any]) -> str:
    width = max(len(name) for name in report["tokens"])
    lines = []
    for name, pieces in report["tokens"].items():
        shown = "\u2502".join(piece.translate(_VISIBLE) for piece in pieces)
        lines.append(f"{name:<{width}}  {len(pieces):>4} tokens  {shown}")
    lines += [f"{name} loses {'; '.join(losses)}" for name, losses in report["losses"].items()]
    lines += [f"{name} runs {way}" for name, way in report["runs"].items()]
    lines += [
        f"{name} encodes a response as a whole at every step, since it has {what}"
        for name, what in report["unfollowed"].items()
    ]
    lines.append("")
    for cut in report["cuts"]:
        where = f"{cut['left'].translate(_VISIBLE):>12}\u2502{cut['right'].translate(_VISIBLE):<12}"
        verdict = f"refused by {', '.join(cut['refused_by'])}" if cut["refused_by"] else "ratified"
        lines.append(f"{cut['position']:>6}  {where}  {verdict}")
    num_ratified = sum(not cut["refused_by"] for cut in report["cuts"])
    lines.append(f"{num_ratified} of {len(report['cuts'])} proposed cuts are ratified by all.")
    return "\n".join(lines)
