"""Texts that the library would alter where they stand, encoded apart from the text around them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import final

import regex
import tokenizers

from coolfusion.tokenization.fidelity.code_points import alike, rare_characters
from coolfusion.tokenization.fidelity.losses import Trip, altered, inside
from coolfusion.tokenization.token_bytes import TokenBytes

Ids = tuple[int, ...]
_ALIKE = 12  # added tokens of equal properties that are tried


@final
class Literals:
    """Added tokens with an id each, and characters that are spelled by byte tokens.

    ``spelled`` holds the characters, and ``of_byte`` the token of each byte. The first name in a
    text counts, and the longest one there. Names ``as_words`` count only where no letter, digit
    or underscore stands beside them.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        as_words: Collection[str] = (),
        spelled: str = "",
        of_byte: Mapping[int, int] | None = None,
    ) -> None:
        self._ids = dict(ids)
        self._of_byte = dict(of_byte or {})
        more = f"[{alike(spelled)}]" if spelled else ""
        self._pattern = pattern_of(ids, as_words, more) if ids or more else None

    @property
    def names(self) -> Collection[str]:
        """The added tokens that are found here, and need not be found by anything else."""
        return self._ids.keys()

    def next_in(self, text: str, start: int) -> tuple[int, int] | None:
        """The (first, end) of the next of them from a position on; None if there is none."""
        found = self._pattern.search(text, start) if self._pattern else None
        return found.span() if found else None

    def parts(self, text: str) -> Iterator[tuple[str, Ids]]:
        """The text between them, each part with the ids of the literal after it, if any."""
        start = 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            yield text[start : found.start()], self._ids_of(found.group())
            start = found.end()
        yield text[start:], ()

    def _ids_of(self, literal: str) -> Ids:
        if literal in self._ids:
            return (self._ids[literal],)
        return tuple(self._of_byte[byte] for byte in literal.encode())


def pattern_of(
    names: Iterable[str], as_words: Collection[str], more: str = ""
) -> regex.Pattern[str]:
    """A pattern of the longest of ``names``, and of ``more``. It finds nothing if both are empty."""
    choices = [
        rf"(?<!\w){regex.escape(name)}(?!\w)" if name in as_words else regex.escape(name)
        for name in sorted(names, key=lambda name: (-len(name), name))
    ]
    return regex.compile("|".join([*choices, *([more] if more else [])]) or r"(?!)")


def names_of_words(tokenizer: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Added tokens, no control tokens, that count only where they stand alone as words."""
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(token.content for token in added if token.single_word and not token.special)


def literals_of(tokenizer: tokenizers.Tokenizer, pieces: TokenBytes, trip: Trip) -> Literals:
    """The added tokens and rare characters that are altered where they stand in a text.

    ``trip`` encodes a text and spells it again. A character is one of them if byte tokens spell
    it.
    """
    if altered(["x"], trip, inside):
        return Literals({})  # nothing survives as it is
    # The text after an added token is encoded like a whole one, with a space before it in some
    # tokenizers. Between literals every part is encoded in context.
    added = tokenizer.get_added_tokens_decoder()
    own = {token.content: i for i, token in added.items() if not token.special}
    of_byte = pieces.of_single_bytes()
    lost = altered(rare_characters(), trip, inside)
    spelled = "".join(char for char in lost if of_byte.keys() >= set(char.encode()))
    if not altered(examples_of(added.values()), trip, inside):
        # Tokens are found where they stand, unless a part of their names is spelled by bytes.
        own = {name: i for name, i in own.items() if not set(name).isdisjoint(spelled)}
    return Literals(own, names_of_words(tokenizer), spelled, of_byte)


def examples_of(tokens: Iterable[tokenizers.AddedToken]) -> list[str]:
    """Names of added tokens, at most a dozen of those that a tokenizer treats alike."""
    chosen: dict[tuple[object, ...], list[str]] = {}
    for token in tokens:
        name = token.content
        flags = (token.special, token.lstrip, token.rstrip, token.single_word, token.normalized)
        edges = (name[:1].isalnum(), name[:1].isspace(), name[-1:].isalnum(), name[-1:].isspace())
        alike = chosen.setdefault((flags, edges, name.isascii(), len(name) == 1), [])
        if len(alike) < _ALIKE:
            alike.append(name)
    return [name for names in chosen.values() for name in names]
