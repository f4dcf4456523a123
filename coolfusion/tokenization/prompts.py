"""The seam to a tokenizer: text to ids and ids to bytes, always as part of a longer text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypedDict

from coolfusion.errors import PromptError

EVERYONE_ELSE = "*"  # in a prompt per source: the sources that are not named


class Message(TypedDict):
    """One chat message; ``role`` is "system", "user" or "assistant"."""

    role: str
    content: str


# What one source is given: a raw text, or chat messages for its template.
OwnPrompt: TypeAlias = str | Sequence[Message]
# What a fusion is given: the same for all sources, or one each by the sources' names.
Prompt: TypeAlias = OwnPrompt | Mapping[str, OwnPrompt]


def prompt_for(prompt: Prompt, name: str) -> OwnPrompt:
    """What the source ``name`` is given. Raises ``PromptError`` where nothing is said of it."""
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
    """Raise ``PromptError`` unless all ``names`` have a prompt, and nobody else."""
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
    """The same prompt for these sources only, as when one of them is asked alone."""
    if not isinstance(prompt, Mapping):
        return prompt
    return {name: prompt_for(prompt, name) for name in names}


def prompt_text(prompt: Prompt) -> str:
    """The words of a prompt; those of several sources one after another, equal ones once."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Mapping):
        return "\n".join(dict.fromkeys(prompt_text(own) for own in prompt.values()))
    return "\n".join(message["content"] for message in prompt)
