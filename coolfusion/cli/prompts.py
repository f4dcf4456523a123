"""How a text that a user types becomes a prompt: a chat where that is possible, or as it stands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coolfusion.cli.terminal import say
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.fusion import FusionModel
    from coolfusion.tokenizer import Prompt


def prompt_of(arguments: argparse.Namespace, fusion: FusionModel, text: str) -> Prompt:
    """The prompt as chat messages where the sources have templates, or as it stands with --raw.

    Raises ``UsageError`` where some sources have a template and others have none.
    """
    if arguments.raw:
        return text
    lacking = [
        s.name for s in fusion.sources if not getattr(s.tokenizer, "has_chat_template", True)
    ]
    if len(lacking) == len(fusion.sources) and arguments.system is None:
        say("No source has a chat template: the prompt is continued as it stands (--raw).")
        return text
    if lacking:
        raise UsageError(
            f'Source "{lacking[0]}" has no chat template, so it cannot be given a chat. Use --raw to '
            "continue the prompt as it stands, or leave that source out."
        )
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    return [*system, {"role": "user", "content": text}]  # type: ignore[list-item]
