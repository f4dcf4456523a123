"""Prompts: a raw text or chat messages, the same for all sources or one each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypedDict

from coolfusion.errors import PromptError

EVERYONE_ELSE = "*"  # in a prompt per source: all sources that are not named


class Message(TypedDict):
    """One chat message; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: str


# The prompt of one source: a raw text, or chat messages for its template.
OwnPrompt: TypeAlias = str | Sequence[Message]
# The prompt of a fusion: the same for all sources, or one each by the sources' names.
Prompt: TypeAlias = OwnPrompt | Mapping[str, OwnPrompt]


def prompt_for(prompt: Prompt, name: str) -> OwnPrompt:
    """The prompt of the source ``name``. Raises ``PromptError`` if it has none."""
    if not isinstance(prompt, Mapping):
        return prompt
    own = prompt.get(name, prompt.get(EVERYONE_ELSE))
    if own is None:
        raise PromptError(
            f'There is no prompt for source "{name}", only for {sorted(prompt)}. Give it one, or '
            f'one under "{EVERYONE_ELSE}" for all that are not named.'
        )
    return own


def check_prompt_names(prompt: Prompt, names: Iterable[str]) -> None:
    """Raise ``PromptError`` unless all ``names`` have a prompt, and no other source has one."""
    names = list(names)
    if isinstance(prompt, Mapping):
        for each in prompt:
            if each != EVERYONE_ELSE and each not in names:
                raise PromptError(
                    f'There is a prompt for "{each}", but no such source. The sources are {names}.'
                )
    for name in names:
        prompt_for(prompt, name)


def prompts_among(prompt: Prompt, names: Iterable[str]) -> Prompt:
    """The same prompt for these sources only. Raises ``PromptError`` if one has none."""
    if not isinstance(prompt, Mapping):
        return prompt
    return {name: prompt_for(prompt, name) for name in names}


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt. Texts of several sources follow one another, equal ones once."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Mapping):
        return "\n".join(dict.fromkeys(prompt_text(own) for own in prompt.values()))
    return "\n".join(message["content"] for message in prompt)
