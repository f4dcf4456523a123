"""Ranges of tokens that begin alike, against a plain search through all of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.tokenization.byte_vocabulary import ByteVocabulary
from coolfusion.tokenization.token_bytes import TokenBytes

END, CONTROL = 0, 1


class Pieces:
    """A tokenizer of which only the bytes of its tokens are asked for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [b"</s>", None, *pieces]
        self.end_ids = frozenset({END, len(self.pieces) + 9})

    def piece(self, token_id: int) -> bytes | None:
        return self.pieces[token_id]


pieces = st.lists(
    st.lists(st.sampled_from([0, 1, 97, 254, 255]), min_size=1, max_size=4).map(bytes), max_size=20
)


@given(pieces, st.lists(st.sampled_from([0, 1, 97, 254, 255]), max_size=4))
@example([b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xffa", b"a"], [254, 255])
@example([b"\xfea", b"\xffa"], [254])
def test_ranges_are_those_of_a_plain_search(pieces: list[bytes], spelled: list[int]) -> None:
    tokenizer = Pieces(pieces)
    vocabulary = ByteVocabulary(tokenizer, len(tokenizer.pieces))
    assert len(vocabulary) == len(pieces)
    assert list(vocabulary.end_ids) == [END]
    named = [tokenizer.pieces[token] for token in vocabulary.ids]
    assert named == sorted(pieces)
    low, high, beginning = 0, len(vocabulary), b""
    for byte in [*spelled, None]:
        follow = vocabulary.follow(low, high, len(beginning))
        there = named[low:high]
        assert there == sorted(piece for piece in pieces if piece.startswith(beginning))
        assert follow.num_whole == pieces.count(beginning)
        nexts = sorted({p[len(beginning)] for p in there if len(p) > len(beginning)})
        assert follow.next_bytes.tolist() == list(follow.ranges) == nexts
        assert follow.starts.tolist() == [start for start, _ in follow.ranges.values()]
        if byte not in follow.ranges:
            return
        (low, high), beginning = follow.ranges[byte], beginning + bytes([byte])


@pytest.mark.parametrize("size", [3, 4])
def test_ids_that_the_model_does_not_have_are_left_out(size: int) -> None:
    assert len(ByteVocabulary(Pieces([b"a", b"b", b"c"]), size)) == size - 2


@given(pieces)
def test_a_tokenizer_that_has_its_bytes_at_hand_is_listed_alike(pieces: list[bytes]) -> None:
    """Ids that the model does not have are among them."""
    asked = Pieces(pieces)
    given = Pieces(pieces)
    given.token_bytes = TokenBytes(dict(enumerate([*asked.pieces, b"a", None])))
    size = len(asked.pieces)
    one, other = ByteVocabulary(asked, size), ByteVocabulary(given, size)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.bytes_written == other.bytes_written
    assert one.follow(0, len(one), 0).ranges == other.follow(0, len(other), 0).ranges
