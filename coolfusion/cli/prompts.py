"""How what a user types becomes a prompt: a chat where that is possible, or as it stands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from coolfusion.cli.files import check_encoded
from coolfusion.cli.terminal import say
from coolfusion.errors import UsageError
from coolfusion.tokenization.prompts import EVERYONE_ELSE, check_prompt_names

if TYPE_CHECKING:
    from coolfusion.backends.huggingface import UnloadedSource
    from coolfusion.backends.source import Source
    from coolfusion.tokenization.prompts import Message, OwnPrompt, Prompt

    Named: TypeAlias = Source | UnloadedSource  # what has a name and a tokenizer

NOBODY: Mapping[str, OwnPrompt] = MappingProxyType({})


def prompt_of(
    arguments: argparse.Namespace,
    sources: Sequence[Named],
    common: OwnPrompt | None,
    own: Mapping[str, OwnPrompt] = NOBODY,
) -> Prompt:
    """The prompt of a user who gave ``common`` to all sources but those that have their ``own``.

    Messages are taken as they are. A text becomes a chat where the source has a template and
    there is no --raw. Raises ``UsageError`` where some sources that share a text have a template
    and others have none, and ``PromptError`` for names that are not the sources'.
    """
    if not own and common is not None:
        return _shared(arguments, sources, common)
    given = own if common is None else {EVERYONE_ELSE: common, **own}
    check_prompt_names(given, [source.name for source in sources])
    named = [source for source in sources if source.name in own]
    prompts = {source.name: _own(arguments, source, own[source.name]) for source in named}
    others = [source for source in sources if source.name not in own]
    if others:
        shared = _shared(arguments, others, given[EVERYONE_ELSE])
        prompts.update({source.name: shared for source in others})
    if arguments.system is not None and all(isinstance(each, str) for each in prompts.values()):
        raise UsageError("--system needs a chat, and no source is given one. Leave it out.")
    return prompts


def check_chat(arguments: argparse.Namespace) -> None:
    """Raise ``UsageError`` for a system message where no chat is wanted."""
    if arguments.system is not None:
        check_encoded(arguments.system)
    if arguments.raw and arguments.system is not None:
        raise UsageError("--system needs a chat, and --raw says there is none. Use one of them.")


def prompt_of_row(arguments: argparse.Namespace, sources: Sequence[Named], given: Prompt) -> Prompt:
    """The prompt of a row, whose own prompts stand beside the one for everyone else."""
    if not isinstance(given, Mapping):
        return prompt_of(arguments, sources, given)
    own = {name: each for name, each in given.items() if name != EVERYONE_ELSE}
    return prompt_of(arguments, sources, given.get(EVERYONE_ELSE), own)


def own_prompts(arguments: argparse.Namespace) -> dict[str, OwnPrompt]:
    """The prompts of --prompt-for by source. Raises ``UsageError`` for one that is none."""
    own: dict[str, OwnPrompt] = {}
    for each in arguments.prompt_for:
        name, sign, text = each.partition("=")
        if not (name and sign and text.strip()):
            raise UsageError(f'--prompt-for is "{each}"; write NAME=TEXT, with a text to continue.')
        if name in own:
            raise UsageError(f'--prompt-for gives source "{name}" two prompts. Give it one.')
        check_encoded(each)
        own[name] = text
    return own


def _own(arguments: argparse.Namespace, source: Named, prompt: OwnPrompt) -> OwnPrompt:
    """One source's own prompt, as a chat if it is a text and the source has a template."""
    has_template = getattr(source.tokenizer, "has_chat_template", True)
    if not isinstance(prompt, str) or arguments.raw or not has_template:
        return prompt
    return _chat(arguments, prompt)


def _shared(
    arguments: argparse.Namespace, sources: Sequence[Named], prompt: OwnPrompt
) -> OwnPrompt:
    """A prompt that several sources are given."""
    if not isinstance(prompt, str) or arguments.raw:
        return prompt
    lacking = [s.name for s in sources if not getattr(s.tokenizer, "has_chat_template", True)]
    if len(lacking) == len(sources) and arguments.system is None:
        say("No source has a chat template: the prompt is continued as it stands (--raw).")
        return prompt
    if lacking:
        raise UsageError(
            f'Source "{lacking[0]}" has no chat template, so it cannot be given a chat. Use --raw to '
            "continue the prompt as it stands, give that source a prompt of its own, or leave it out."
        )
    return _chat(arguments, prompt)


def _chat(arguments: argparse.Namespace, text: str) -> list[Message]:
    system: list[Message] = []
    if arguments.system:
        system.append({"role": "system", "content": arguments.system})
    return [*system, {"role": "user", "content": text}]
