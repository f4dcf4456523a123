"""The seam to a tokenizer: text to ids and ids to bytes, always as part of a longer text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypedDict

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


class Tokenizer(Protocol):
    """What alignment, drafting and scoring need from a tokenizer.

    Laws (``coolfusion.testing.check_tokenizer``): the pieces of ``encode(text)`` join to the
    text, up to Unicode normalisation form C; ``encode`` never gives an end id, whatever the
    text says; equal texts give equal ids.
    """

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a response."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` as it reads in the middle of a longer text, without special tokens."""
        ...

    def piece(self, token_id: int) -> bytes | None:
        """The bytes a token adds to a text; None for a control token, which adds none."""
        ...

    def encode_prompt(self, prompt: OwnPrompt) -> tuple[int, ...]:
        """Ids of a raw prompt or of chat messages, with the special tokens they call for."""
        ...


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


def pieces_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of ``ids``; control tokens add nothing and broken UTF-8 becomes U+FFFD."""
    return b"".join(tokenizer.piece(i) or b"" for i in ids).decode("utf-8", "replace")
