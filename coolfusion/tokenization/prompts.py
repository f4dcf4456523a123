"""Prompts: a raw text or chat messages, the same for all sources or one each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, cast

import regex
from typing_extensions import NotRequired

from coolfusion.errors import PromptError

EVERYONE_ELSE = "*"  # in a prompt per source: all sources that are not named
_MAX_DEPTH = 64  # of lists and mappings in a message, as arguments of tools may nest
_BESIDE_CONTENT = ("tool_calls", "reasoning_content", "thinking", "reasoning")
_HALF_CHARACTER = regex.compile(r"[\ud800-\udfff]")


class Message(TypedDict):
    """One chat message; ``role`` is "system", "user", "assistant" or what the template knows.

    ``content`` is a text, or text parts as ``{"type": "text", "text": ...}``. It may be None or
    missing where the message holds tool calls or reasoning.
    """

    role: str
    content: NotRequired[str | Sequence[Mapping[str, Any]] | None]
    name: NotRequired[str]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]] | None]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str | None]


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
    return "\n".join(content_text(message) for message in prompt)


def content_text(message: Message) -> str:
    """The text of a message's content: its parts one under another, "" if it has none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts: Sequence[Mapping[str, Any]] = content or ()
    return "\n".join(part["text"] for part in parts if part.get("type") == "text")


def checked_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages as plain lists and dictionaries of their own.

    Raises ``PromptError`` for what no chat template can be given. That is no messages, a role
    that is no text, content other than text, lone surrogates, or values that are not JSON.
    """
    if not isinstance(messages, Sequence):
        raise PromptError(
            f"The prompt is of type {type(messages).__name__}. Give a text, or a list of messages."
        )
    if not messages:
        raise PromptError("The list of chat messages is empty. Give at least one message.")
    return [checked_message(message, f"Chat message {k}") for k, message in enumerate(messages)]


def checked_message(message: Message, place: str) -> Message:
    """One message as a plain dictionary. Raises ``PromptError``, which calls it ``place``."""
    if not isinstance(message, Mapping):
        raise PromptError(
            f"{place} is of type {type(message).__name__}; it must be a mapping with a "
            '"role" and "content".'
        )
    plain: dict[str, Any] = _plain(message, place, 0)
    role, content = plain.get("role"), plain.get("content")
    if not isinstance(role, str) or not role:
        raise PromptError(f'{place} has the role {role!r}; it needs a "role" that is text.')
    if content is None:
        if not any(plain.get(key) is not None for key in _BESIDE_CONTENT):
            raise PromptError(
                f'{place} ("{role[:40]}") has no "content" and no "tool_calls". Give it one of them.'
            )
    elif isinstance(content, list):
        for part in content:
            _check_part(part, place)
    elif not isinstance(content, str):
        raise PromptError(
            f"{place} has content of type {type(content).__name__}; it must be text, or a list of "
            "text parts."
        )
    return cast("Message", plain)


def check_characters(text: str) -> None:
    """Raise ``PromptError`` for a text with a lone surrogate, which has no encoding."""
    if _HALF_CHARACTER.search(text):
        raise PromptError(
            f"The prompt {text[:40]!r} holds half a character (a lone surrogate), which has no "
            "encoding. Decode the text anew."
        )


def _check_part(part: Any, place: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind != "text":
        raise PromptError(
            f"{place} has a content part of type {str(kind)[:40]!r}. Sources read text only: give "
            'parts as {"type": "text", "text": ...}.'
        )
    if not isinstance(part.get("text"), str):
        raise PromptError(f'{place} has a text part whose "text" is no text. Give it some.')


def _plain(value: Any, place: str, depth: int) -> Any:
    """``value`` rebuilt of dictionaries, lists and exact scalars, as JSON has them."""
    if depth > _MAX_DEPTH:
        raise PromptError(f"{place} nests lists or mappings deeper than {_MAX_DEPTH}. Flatten it.")
    if isinstance(value, str):
        check_characters(value)
        return str.__str__(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise PromptError(f"{place} has a key that is no text. Name all its fields by texts.")
        return {
            _plain(key, place, depth): _plain(each, place, depth + 1) for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each, place, depth + 1) for each in value]
    raise PromptError(
        f"{place} holds a value of type {type(value).__name__}, which JSON does not have. Give text, "
        "numbers, lists or mappings."
    )
