"""Where a draft is cut and why it is withdrawn, on sources that write given bytes."""

from __future__ import annotations

import pytest

from coolfusion import Generation, Request, SegmentDecoder, Source, StopReason
from coolfusion.backends.ngram import NgramBackend
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.testing import toy_source

PROMPT = "a"
TOKENIZER = toy_source("bytes", ["a"], family="bytes").tokenizer
SIZE = 257
END = next(iter(TOKENIZER.end_ids))
ID_OF = {TOKENIZER.piece(token): token for token in range(SIZE) if token != END}


def writer(data: bytes, name: str = "one", *, room: int | None = None, ends: bool = True) -> Source:
    """A source that writes these bytes after the prompt, one a token, and ends.

    ``room`` is how many tokens its context window holds beside the prompt.
    """
    prompt = TOKENIZER.encode_prompt(PROMPT)
    ids = (*prompt, *(ID_OF[bytes([byte])] for byte in data), *([END] if ends else []))
    limit = None if room is None else len(prompt) + room
    return Source(name, TOKENIZER, NgramBackend([ids], SIZE, order=64, context_length=limit))


def written(*sources: Source, boundary: str = "words", **limits: int) -> Generation:
    request = Request(**{"max_new_tokens": 60, **limits})
    return SegmentDecoder(sources, make_recipe(boundary=boundary)).generate(PROMPT, request)


def reasons(result: Generation) -> list[str]:
    return [gone.reason for step in result.steps for gone in step.withdrawn]


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff",  # in no character
        b"\x97",  # goes on with what has not begun
        b"\xe6\x97 ",  # a character that is broken off
        b"\xc0\x80",  # longer than it need be
        b"\xed\xa0\x80",  # half of a surrogate pair
    ],
)
def test_bytes_that_are_not_utf_8_are_no_text(bad: bytes) -> None:
    alone = written(writer(bad + b"x"))
    assert (alone.text, alone.stop_reason) == ("", StopReason.NO_DRAFT)
    assert reasons(alone) == ["it drew bytes that are not UTF-8"]
    begun = written(writer(b" it" + bad))
    assert (begun.text, begun.stop_reason) == (" it", StopReason.NO_DRAFT)
    assert reasons(begun) == ["it drew bytes that are not UTF-8"]


def test_another_source_goes_on_where_one_writes_no_text() -> None:
    result = written(writer(b"\xff"), writer(b" it is", "two"))
    assert result.text == " it is"
    assert reasons(result)[0] == "it drew bytes that are not UTF-8"
    assert not result.warnings  # models do that now and then


@pytest.mark.parametrize(
    ("data", "cap", "segment"),
    [
        ("abc123456 x", 6, "abc"),  # not abc12: the number could go on
        ("abc123456 x", 4, "abc"),
        ("no 12345678", 7, "no "),
        ("123456789", 6, "12345"),  # nothing but a number
        ("abcdefghi", 4, "abc"),
        ("abe\u0301e\u0301", 5, "ab"),  # not the accent alone
        ("ab\U0001f469\u200d\U0001f680x", 9, "ab"),  # not half of a joined emoji
        ("ab\U0001f469\u200d\U0001f680x", 5, "a"),
        ("\u65e5\u672c", 3, "\u65e5"),
    ],
)
def test_a_forced_cut_is_before_the_last_cluster_or_number(
    data: str, cap: int, segment: str
) -> None:
    result = written(writer(data.encode()), boundary="whole_response", max_segment_tokens=cap)
    assert result.steps[0].segment == segment
    assert result.text == data
    assert result.stop_reason is StopReason.END


def test_a_segment_has_no_more_tokens_than_its_cap() -> None:
    result = written(writer(b"abcdefghi"), boundary="whole_response", max_segment_tokens=4)
    assert [step.segment for step in result.steps] == ["abc", "def", "ghi", ""]
    assert max(use.num_drafted for step in result.steps for use in step.usage) == 4


def test_a_draft_that_holds_no_complete_character_says_so() -> None:
    capped = written(writer("\u65e5".encode()), max_segment_tokens=2)
    assert reasons(capped) == ["2 tokens held no complete character"]
    narrow = written(writer("\u65e5".encode(), room=2))
    assert reasons(narrow) == ["no complete character fits into what room is left"]
    assert narrow.text == capped.text == ""


def test_a_character_is_finished_at_the_limit() -> None:
    limited = written(writer("a\u65e5b".encode()), max_new_tokens=2)
    assert (limited.text, limited.stop_reason) == ("a\u65e5", StopReason.LENGTH)


@pytest.mark.parametrize("length", [1, 5, 9])
def test_all_room_is_used_and_no_more(length: int) -> None:
    """By the tokens that a request allows, and by those that a context window holds."""
    data = b"abcdefghijk"
    limited = written(writer(data), boundary="whole_response", max_new_tokens=length)
    assert limited.text == data[:length].decode()
    assert limited.stop_reason is StopReason.LENGTH
    narrow = written(writer(data, room=length), boundary="whole_response")
    assert narrow.text == data[:length].decode()
    assert narrow.stop_reason is StopReason.CONTEXT_LENGTH
    assert "context window" in narrow.steps[-1].dropped[0].reason
    assert (narrow.stop_sources, limited.stop_sources) == (("one",), ())


def test_a_control_token_is_no_text() -> None:
    tokenizer = toy_source("marked", ["ab"], family="sentencepiece_bpe").tokenizer
    control = next(t for t in range(9) if t not in tokenizer.end_ids and not tokenizer.piece(t))
    prompt = tokenizer.encode_prompt(PROMPT)
    backend = NgramBackend([(*prompt, control)], 512, order=8)
    result = written(Source("one", tokenizer, backend))
    assert (result.text, result.stop_reason) == ("", StopReason.NO_DRAFT)
    assert reasons(result) == [f"it drew the control token {control}"]


def test_an_end_is_offered_with_the_text_before_it() -> None:
    result = written(writer(b" it is"))
    assert [(step.segment, step.ends) for step in result.steps] == [
        (" it", False),
        (" is", False),
        ("", True),
    ]
    paper = SegmentDecoder([writer(b" it is")], make_recipe("paper")).generate(PROMPT)
    assert [(step.segment, step.ends) for step in paper.steps] == [(" it", False), (" is", True)]
