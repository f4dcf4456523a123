"""Texts that the library would alter where they stand, encoded apart from the text around them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, final

import regex
import tokenizers

from coolfusion.tokenization.fidelity.code_points import alike, rare_characters
from coolfusion.tokenization.fidelity.losses import Trip, altered, inside
from coolfusion.tokenization.token_bytes import decoded_by

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


def faithful_copy(tokenizer: tokenizers.Tokenizer) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A copy that gives each text its own ids, and its specification.

    It keeps the names of special tokens as text. Other added tokens take no white space with
    them, and are found in the text as it stands. Merges are never dropped at random.

    Some added tokens are tokens of the model, too, which makes them of other text. In Gemma 2 and
    3 the runs of word marks stand for runs of spaces. Their names in a text are no tokens.
    """
    written = tokenizer.to_str()
    spec: dict[str, Any] = json.loads(written)
    changed = bool(spec["model"].get("dropout"))
    if changed:
        spec["model"]["dropout"] = None
    decoded, of_model = decoded_by(spec), tokenizer.model.token_to_id
    own = [
        token
        for token in spec["added_tokens"]
        if token["special"]
        or of_model(token["content"]) != token["id"]
        or decoded(token["content"]) == token["content"].encode("utf-8")
    ]
    changed |= len(own) < len(spec["added_tokens"])
    spec["added_tokens"] = own
    for token in own:
        changed |= not token["special"] and _keep_what_is_around(token, tokenizer)
    copy = _built(spec, json.dumps(spec) if changed else written)
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy, spec


def _keep_what_is_around(token: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> bool:
    """Make an added token stand for its own text alone; whether that changes anything."""
    # A normaliser that puts a word mark before each text does so to the token, too. It then
    # stands for the space before it as well, and nothing spells that.
    moved = token["normalized"] and tokenizer.normalizer is not None
    moved = moved and tokenizer.normalizer.normalize_str(token["content"]) != token["content"]
    wanted = {"lstrip": False, "rstrip": False} | ({"normalized": False} if moved else {})
    changed = any(token[key] != value for key, value in wanted.items())
    token.update(wanted)
    return changed


def literals_of(
    tokenizer: tokenizers.Tokenizer, pieces: Mapping[int, bytes | None], trip: Trip
) -> Literals:
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
    of_byte = {piece[0]: token for token, piece in pieces.items() if piece and len(piece) == 1}
    lost = altered(rare_characters(), trip, inside)
    spelled = "".join(char for char in lost if of_byte.keys() >= set(char.encode()))
    if not altered(examples_of(added.values()), trip, inside):
        # Tokens are found where they stand, unless a part of their names is spelled by bytes.
        own = {name: i for name, i in own.items() if not set(name).isdisjoint(spelled)}
    return Literals(own, names_of_words(tokenizer), spelled, of_byte)


def without_names(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that finds no added tokens in a text."""
    spec = json.loads(tokenizer.to_str())
    for token in spec["added_tokens"]:
        token["special"] = True  # names of special tokens are kept as text
    copy = _built(spec, json.dumps(spec))
    copy.encode_special_tokens = True
    return copy


def _built(spec: Mapping[str, Any], written: str) -> tokenizers.Tokenizer:
    """The tokenizer of a specification, in which sums of a Unigram model's scores are exact.

    Such a model adds scores from the beginning of a text. Where two ways to cut it are equally
    good, as in a run of one character, the rounding of all before would decide between them.
    """
    built = tokenizers.Tokenizer.from_str(written)
    model = spec["model"]
    if model["type"] == "Unigram":
        # Multiples of 2**-24 are as fine as the scores' own type (float32). Their sums have 29 of
        # a double's 53 bits left for the whole part, enough for 10 million tokens. JSON would
        # round them again.
        vocabulary = [(name, round(score * 2**24) / 2**24) for name, score in model["vocab"]]
        built.model = tokenizers.models.Unigram(
            vocabulary, model["unk_id"], model.get("byte_fallback", False)
        )
    return built


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
