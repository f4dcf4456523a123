"""Chat messages to ids: only what the template itself writes becomes a control token.

A control token of a chat is a special token, an end token, or an added token that the template
writes itself. Typed by somebody, each of them is text. All other added tokens mean the same
whoever writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import tokenizers

from coolfusion.errors import PromptError
from coolfusion.tokenization.chat_marks import Block, free_block
from coolfusion.tokenization.control_names import Renamed
from coolfusion.tokenization.fidelity.copies import copy_of
from coolfusion.tokenization.prompts import Message, checked_messages, content_text
from coolfusion.tokenization.typed_text import ChatTemplate, Typed, find_typed, strings_of

_MAX_TRIES = 3  # a template may write the time of day


class _Found(NamedTuple):
    """An added token in a text: its id, and where its name stands, without white space."""

    token_id: int
    start: int
    end: int


class ChatEncoder:
    """Writes messages with ``template`` and encodes the text with ``tokenizer``.

    Without typed control tokens the ids are those of transformers' ``apply_chat_template``,
    untruncated and unpadded. ``tokenizer`` is never altered.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, template: ChatTemplate) -> None:
        if tokenizer.truncation is not None or tokenizer.padding is not None:
            tokenizer = copy_of(tokenizer)
        self._tokenizer = tokenizer
        self._template = template
        self._added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(k for k, token in self._added.items() if token.special)
        self._renamed = lru_cache(maxsize=4)(self._make_renamed)

    def encode(self, messages: Sequence[Message], end_ids: Collection[int]) -> tuple[int, ...]:
        """Ids of the messages. Raises ``PromptError`` for what the template refuses.

        Control tokens that somebody typed become text. ``PromptError`` also if they cannot be
        told from the template's own, since it compares messages with them.
        """
        asked = checked_messages(messages)
        if not any(content_text(each).strip() or each.get("tool_calls") for each in asked):
            raise PromptError("The chat messages are all empty. Give at least one with content.")
        control = self._special | (frozenset(end_ids) & self._added.keys())
        for _ in range(_MAX_TRIES):
            asked, rendered = self._render(asked)
            encoding = self._tokenizer.encode(rendered, add_special_tokens=False)
            found = self._find(encoding, rendered)
            if not found:
                return tuple(encoding.ids)
            block = free_block([rendered, *strings_of(asked)])
            names = {self._added[each.token_id].content for each in found}
            typed = find_typed(self._written, asked, rendered, block, names)
            if typed is not None:
                own = self._own(found, typed, rendered, control, block)
                if own == found:
                    return tuple(encoding.ids)
                return self._encode_renamed(rendered, own, control, block)
        raise PromptError(
            "The chat template writes another text each time, so what was typed cannot be told from "
            "its own. Use another template or a raw prompt."
        )

    def _render(self, messages: list[Message]) -> tuple[list[Message], str]:
        """The text, and the messages that it was made of.

        Templates that do not know text parts are given one text in their place. They show it by
        failing, or by writing out a part as Python does.
        """
        parts = [
            part for each in messages if isinstance(each.get("content"), list)
            for part in each["content"] or ()
        ]  # fmt: skip
        if parts:
            try:
                rendered = self._written(messages)
            except PromptError:
                rendered = None
            if rendered is not None and not any(str(part) in rendered for part in parts):
                return messages, rendered
            messages = [_with_one_text(message) for message in messages]
        return messages, self._written(messages)

    def _written(self, messages: Sequence[Message]) -> str:
        try:
            rendered = self._template(messages)
        except PromptError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise PromptError(f"The chat template refuses these messages: {reason}") from error
        if not isinstance(rendered, str):
            raise PromptError(
                f"The chat template gives {type(rendered).__name__} in place of text. Give the "
                "source another template."
            )
        try:
            rendered.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                "The chat template writes half a character, which no tokenizer takes. Give the "
                "source another template."
            ) from error
        return rendered

    def _find(self, encoding: tokenizers.Encoding, text: str) -> list[_Found]:
        """The added tokens that the tokenizer finds by their names, in order."""
        found, added = [], self._added
        places = [(k, token_id) for k, token_id in enumerate(encoding.ids) if token_id in added]
        for index, token_id in places:
            if span := encoding.token_to_chars(index):
                name = added[token_id].content
                at = text.find(name, *span)
                if at >= 0:
                    found.append(_Found(token_id, at, at + len(name)))
        return found

    def _own(
        self,
        found: list[_Found],
        typed: Typed,
        rendered: str,
        control: frozenset[int],
        block: Block,
    ) -> list[_Found]:
        """Added tokens that stay: the template's own, and typed ones that are no control tokens.

        The others are blanked out until the tokenizer finds none of them. Names that they covered
        are thereby found as well.
        """
        text = rendered
        while True:
            mine = {
                each.token_id
                for each in found
                if not typed.covers(each.start, each.end)
                and not self._added[each.token_id].content.isspace()
            }
            strict = mine | control
            forged = [
                each
                for each in found
                if each.token_id in strict and typed.covers(each.start, each.end)
            ]
            if not forged:
                break
            for each in forged:
                text = typed.blanked(text, each.start, each.end, block.blank)
            found = self._find(self._tokenizer.encode(text, add_special_tokens=False), text)
        for each in found:
            name = self._added[each.token_id].content
            if each.token_id in control and typed.may_hide(name):
                raise PromptError(
                    f"A message holds {name!r} or a part of it, a control token, and the chat "
                    "template compares messages with it. So what was typed cannot be told from "
                    "the template's own. Remove it from the message."
                )
        return found

    def _encode_renamed(
        self, rendered: str, own: list[_Found], control: frozenset[int], block: Block
    ) -> tuple[int, ...]:
        """Ids of the text in which only the ``own`` tokens are tokens."""
        renamed = self._renamed(block.names, control)
        parts, last = [], 0
        for token_id, start, end in own:
            parts += [rendered[last:start], renamed.names[token_id]]
            last = end
        ids = renamed.encode("".join([*parts, rendered[last:]]))
        strict = control - {renamed.unknown}
        if [k for k in ids if k in strict] != [k.token_id for k in own if k.token_id in strict]:
            raise PromptError(
                "A message holds a control token which this tokenizer makes of plain text, too. "
                "Remove it from the message."
            )
        return ids

    def _make_renamed(self, first: int, control: frozenset[int]) -> Renamed:
        return Renamed(self._tokenizer, first, control)


def _with_one_text(message: Message) -> Message:
    if not isinstance(message.get("content"), list):
        return message
    return {**message, "content": content_text(message)}
