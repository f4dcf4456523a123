"""The bytes of each token, from the decoder that a tokenizer declares.

``tokenizer.decode`` strips spaces and replaces incomplete characters. It also returns the wrong
text for tokenizers whose added tokens bypass the byte alphabet. A table of bytes per token has
none of these faults, and its entries can be joined in any order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, final

import numpy as np
import regex
import tokenizers
from tokenizers import models

from coolfusion.errors import LoadError
from coolfusion.tokenization.base import Tokenizer
from coolfusion.types import Ints

Stage = Callable[[list[bytes]], list[bytes]]  # each piece becomes another
_BYTE_TOKEN = regex.compile(rb"<0x([0-9A-Fa-f]{2})>")


@final
class TokenBytes:
    """The bytes of tokens, one after another in the order of their ids, as a sequence.

    A control token is None. ``ids`` (tokens,) ascend. ``lengths`` (tokens,) are numbers of bytes.
    """

    # The 262,144 tokens of Gemma take 6 MB in this way, and 28 MB as a dictionary.

    def __init__(self, pieces: Mapping[int, bytes | None]) -> None:
        ids = sorted(pieces)
        written = [pieces[token] or b"" for token in ids]
        is_control = np.array([pieces[token] is None for token in ids], np.bool_)
        offsets = np.cumsum([0, *map(len, written)]).astype(np.int32)
        self.ids: Ints = np.array(ids, np.int64)
        self.lengths = np.diff(offsets)
        self._data = b"".join(written)
        # Views give Python's own numbers, five times as fast as arrays.
        self._is_control, self._offsets = is_control.data, offsets.data
        is_dense = not ids or (ids[0] == 0 and ids[-1] == len(ids) - 1)
        self._numbers = None if is_dense else {token: k for k, token in enumerate(ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> bytes | None:
        if self._is_control[number]:
            return None
        return self._data[self._offsets[number] : self._offsets[number + 1]]

    def piece(self, token_id: int) -> bytes | None:
        """The bytes of a token; None for a control token or an unused id."""
        number = token_id if self._numbers is None else self._numbers.get(token_id, -1)
        return self[number] if 0 <= number < len(self._is_control) else None

    def written(self) -> list[bytes]:
        """The bytes of all tokens, which a control token has none of."""
        return [self._data[start:end] for start, end in pairwise(self._offsets.tolist())]

    def of_single_bytes(self) -> dict[int, int]:
        """The tokens of a single byte, by that byte; of several the one with the highest id."""
        single = np.flatnonzero(self.lengths == 1)
        return {self._data[self._offsets[k]]: int(self.ids[k]) for k in single.tolist()}


def bytes_of(tokenizer: Tokenizer, size: int) -> TokenBytes:
    """The bytes of all tokens of ``tokenizer`` with ids below ``size``; there may be others."""
    known: TokenBytes | None = getattr(tokenizer, "token_bytes", None)
    if known is not None:
        return known
    return TokenBytes({token: tokenizer.piece(token) for token in range(size)})


def token_bytes(tokenizer: tokenizers.Tokenizer, vocabulary: Mapping[str, int]) -> TokenBytes:
    """The bytes of every token; special tokens have none.

    ``vocabulary`` has the ids of all names, those of added tokens, too. Raises ``LoadError`` for a
    decoder whose tokens have no bytes in isolation.
    """
    decoded = decoded_by(tokenizer.decoder)(list(vocabulary))
    pieces: dict[int, bytes | None] = dict(zip(vocabulary.values(), decoded, strict=True))
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        pieces[token_id] = None if added.special else added.content.encode("utf-8")
    unknown = unknown_id(tokenizer)
    if unknown is not None:
        pieces[unknown] = None
    return TokenBytes(pieces)


def unknown_id(tokenizer: tokenizers.Tokenizer) -> int | None:
    """The id that the model gives to what it does not know."""
    model: Any = tokenizer.model
    if isinstance(model, models.Unigram):
        found: int | None = json.loads(model.__getstate__())["unk_id"]
        return found
    return None if model.unk_token is None else tokenizer.token_to_id(model.unk_token)


def decoded_by(decoder: Any) -> Callable[[list[str]], list[bytes]]:
    """What a decoder makes of the names of tokens, of each by itself.

    Raises ``LoadError`` for a decoder whose tokens have no bytes in isolation.
    """
    stages = _stages(None if decoder is None else json.loads(decoder.__getstate__()))

    def decoded(names: list[str]) -> list[bytes]:
        pieces = [name.encode("utf-8") for name in names]
        for stage in stages:
            pieces = stage(pieces)
        return pieces

    return decoded


def _stages(decoder: Mapping[str, Any] | None) -> list[Stage]:
    if decoder is None:
        return [lambda pieces: [b" " + piece for piece in pieces]]
    kind = decoder["type"]
    if kind == "Sequence":
        return [stage for part in decoder["decoders"] for stage in _stages(part)]
    if kind not in _STAGE_OF:
        raise LoadError(
            f"The tokenizer declares a {kind} decoder, whose tokens have no bytes of their own. "
            f"Known decoders: {', '.join(sorted(_STAGE_OF))}."
        )
    return [_STAGE_OF[kind](decoder)]


def _byte_level(_: Mapping[str, Any]) -> Stage:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 upwards."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + offset): byte for offset, byte in enumerate(others)}
    # Characters outside of the alphabet become none of Latin-1, which would be taken for a byte.
    table = dict.fromkeys(range(128, 256), "\uffff") | str.maketrans(
        {char: chr(byte) for char, byte in byte_of.items()}
    )

    def decoded(piece: bytes) -> bytes:
        text = piece.decode("utf-8")
        try:
            return text.translate(table).encode("latin-1")
        except UnicodeEncodeError:  # in some added tokens
            return b"".join(
                bytes([byte_of[char]]) if char in byte_of else char.encode("utf-8") for char in text
            )

    return lambda pieces: list(map(decoded, pieces))


def _replace(decoder: Mapping[str, Any]) -> Stage:
    content = decoder["content"].encode("utf-8")
    pattern = decoder["pattern"]
    if pattern.get("String"):
        return _replaced(pattern["String"].encode("utf-8"), content)
    source = regex.escape(pattern["String"]) if "String" in pattern else pattern["Regex"]
    compiled = regex.compile(source)
    return lambda pieces: [
        compiled.sub(
            lambda _: content.decode("utf-8"), piece.decode("utf-8", "surrogateescape")
        ).encode("utf-8", "surrogateescape")
        for piece in pieces
    ]


def _byte_fallback(_: Mapping[str, Any]) -> Stage:
    def decoded(piece: bytes) -> bytes:
        match = _BYTE_TOKEN.fullmatch(piece)
        return bytes([int(match.group(1), 16)]) if match else piece

    return lambda pieces: [
        decoded(piece) if piece.startswith(b"<0x") else piece for piece in pieces
    ]


def _metaspace(decoder: Mapping[str, Any]) -> Stage:
    return _replaced(decoder.get("replacement", "\u2581").encode("utf-8"), b" ")


def _word_piece(decoder: Mapping[str, Any]) -> Stage:
    prefix = decoder.get("prefix", "##").encode("utf-8")
    return lambda pieces: [
        piece[len(prefix) :] if piece.startswith(prefix) else b" " + piece for piece in pieces
    ]


def _suffix(decoder: Mapping[str, Any]) -> Stage:
    return _replaced(decoder.get("suffix", "</w>").encode("utf-8"), b" ")


def _replaced(old: bytes, new: bytes) -> Stage:
    return lambda pieces: [piece.replace(old, new) for piece in pieces]


def _identity(_: Mapping[str, Any]) -> Stage:
    """Fuse and Strip act on the beginning and end of a whole text, never in its middle."""
    return lambda pieces: pieces


_STAGE_OF: dict[str, Callable[[Mapping[str, Any]], Stage]] = {
    "ByteLevel": _byte_level,
    "Replace": _replace,
    "ByteFallback": _byte_fallback,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "BPEDecoder": _suffix,
    "Fuse": _identity,
    "Strip": _identity,
}
