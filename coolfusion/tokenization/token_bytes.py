"""The bytes of each token, from the decoder that a tokenizer declares.

``tokenizer.decode`` strips spaces and replaces incomplete characters. It also returns the wrong
text for tokenizers whose added tokens bypass the byte alphabet. A table of bytes per token has
none of these faults, and its entries can be joined in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import regex
import tokenizers

from coolfusion.errors import LoadError

Stage = Callable[[bytes], bytes]
_BYTE_TOKEN = regex.compile(rb"<0x([0-9A-Fa-f]{2})>")


def token_pieces(
    tokenizer: tokenizers.Tokenizer, spec: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> dict[int, bytes | None]:
    """Map every id to its bytes, special tokens to None.

    ``spec`` is the tokenizer's own, as it writes itself. ``vocabulary`` has the ids of all names,
    those of added tokens, too. Raises ``LoadError`` for a decoder whose
    tokens have no bytes in isolation.
    """
    decoded = decoded_by(spec)
    pieces: dict[int, bytes | None] = {i: decoded(name) for name, i in vocabulary.items()}
    for added in spec.get("added_tokens", ()):
        pieces[added["id"]] = None if added["special"] else added["content"].encode("utf-8")
    unknown = spec["model"].get("unk_token")
    if unknown is None and spec["model"].get("unk_id") is not None:
        unknown = spec["model"]["vocab"][spec["model"]["unk_id"]][0]
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    if unknown_id is not None:
        pieces[unknown_id] = None
    return pieces


def decoded_by(spec: Mapping[str, Any]) -> Callable[[str], bytes]:
    """What the declared decoder makes of the name of one token.

    Raises ``LoadError`` for a decoder whose tokens have no bytes in isolation.
    """
    stages = _stages(spec.get("decoder"))

    def decoded(name: str) -> bytes:
        piece = name.encode("utf-8")
        for stage in stages:
            piece = stage(piece)
        return piece

    return decoded


def _stages(decoder: Mapping[str, Any] | None) -> list[Stage]:
    if decoder is None:
        return [lambda piece: b" " + piece]
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
    table = str.maketrans({char: chr(byte) for char, byte in byte_of.items()})

    def stage(piece: bytes) -> bytes:
        text = piece.decode("utf-8")
        if byte_of.keys() >= set(text):  # as for all but the added tokens
            return text.translate(table).encode("latin-1")
        return b"".join(
            bytes([byte_of[char]]) if char in byte_of else char.encode("utf-8") for char in text
        )

    return stage


def _replace(decoder: Mapping[str, Any]) -> Stage:
    content = decoder["content"].encode("utf-8")
    pattern = decoder["pattern"]
    if pattern.get("String"):
        old = pattern["String"].encode("utf-8")
        return lambda piece: piece.replace(old, content)
    source = regex.escape(pattern["String"]) if "String" in pattern else pattern["Regex"]
    compiled = regex.compile(source)
    return lambda piece: compiled.sub(
        lambda _: content.decode("utf-8"), piece.decode("utf-8", "surrogateescape")
    ).encode("utf-8", "surrogateescape")


def _byte_fallback(_: Mapping[str, Any]) -> Stage:
    def stage(piece: bytes) -> bytes:
        match = _BYTE_TOKEN.fullmatch(piece) if piece.startswith(b"<0x") else None
        return bytes([int(match.group(1), 16)]) if match else piece

    return stage


def _metaspace(decoder: Mapping[str, Any]) -> Stage:
    mark = decoder.get("replacement", "\u2581").encode("utf-8")
    return lambda piece: piece.replace(mark, b" ")


def _word_piece(decoder: Mapping[str, Any]) -> Stage:
    prefix = decoder.get("prefix", "##").encode("utf-8")
    return lambda piece: piece[len(prefix) :] if piece.startswith(prefix) else b" " + piece


def _suffix(decoder: Mapping[str, Any]) -> Stage:
    suffix = decoder.get("suffix", "</w>").encode("utf-8")
    return lambda piece: piece.replace(suffix, b" ")


def _identity(_: Mapping[str, Any]) -> Stage:
    """Fuse and Strip act on the beginning and end of a whole text, never in its middle."""
    return lambda piece: piece


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
