"""Bytes of tokens in one string, against the dictionary that they are made of."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders

from coolfusion.tokenization.token_bytes import TokenBytes, decoded_by

tables = st.dictionaries(
    st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)),
    st.one_of(st.none(), st.binary(max_size=3)),
    max_size=9,
)


@given(tables)
@example({})
@example({0: b"", 1: None, 2: b"\x00"})
@example({2**32 - 1: b"a"})
def test_every_id_has_its_bytes(table: dict[int, bytes | None]) -> None:
    found = TokenBytes(table)
    assert list(found) == [table[token] for token in sorted(table)]
    assert found.ids.tolist() == sorted(table)
    assert found.written() == [piece or b"" for piece in found]
    assert found.lengths.tolist() == list(map(len, found.written()))
    for token in (*table, -1, *range(8), 2**32):
        assert found.piece(token) == table.get(token)
    single = {piece[0]: k for k, piece in sorted(table.items()) if piece and len(piece) == 1}
    assert found.of_single_bytes() == single


def test_characters_outside_of_the_byte_alphabet_stay() -> None:
    """U+0120 is the space, U+00E9 a byte of its own; U+00AD and the ideograph are no bytes."""
    names = ["\u0120a", "\u00e9", "\u00ad", "\u65e5\u0120", " ", "\u0100\u0143"]
    wanted = [b" a", b"\xe9", b"\xc2\xad", "\u65e5 ".encode(), b" ", b"\x00\xad"]
    assert decoded_by(decoders.ByteLevel())(names) == wanted


def test_each_decoder_in_a_sequence_acts_on_each_name() -> None:
    decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    names = ["\u2581a\u2581", "<0xE6>", "<0xE6>a", "\u2581<0x41>"]
    assert decoded_by(decoder)(names) == [b" a ", b"\xe6", b"<0xE6>a", b" <0x41>"]
    assert decoded_by(None)(["a"]) == [b" a"]
    assert decoded_by(decoders.WordPiece())(["##a", "a"]) == [b"a", b" a"]
