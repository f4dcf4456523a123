"""What is shown never holds a stop string, however the text arrives."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.decoding.commit import emit
from tests.strategies import splits

stops = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def shown(pieces: list[str], stop: list[str]) -> tuple[str, str | None]:
    """Run a text through ``emit`` as the decoder does."""
    text, num_shown, parts = "", 0, []
    for index, piece in enumerate(pieces):
        text += piece
        emission = emit(text, num_shown, len(piece), stop, final=index == len(pieces) - 1)
        parts.append(text[num_shown : emission.end])
        assert emission.end >= num_shown
        num_shown = emission.end
        if emission.stop_string is not None:
            return "".join(parts), emission.stop_string
    return "".join(parts), None


def cut(text: str, stop: list[str]) -> str:
    """The text up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(string) for string in stop if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)]
    return text


@given(splits(st.text("ab\n", min_size=1, max_size=30)), stops)
@example(["ab", "c"], ["abc", "b"])
@example(["a", "a", "b"], ["ab", "aab"])
def test_shown_text_is_the_text_up_to_its_stop(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    result, found = shown(pieces, stop)
    assert result == cut(text, stop)
    assert (found is None) == (result == text and not any(string in text for string in stop))
    assert not any(string in result for string in stop)
    assert shown([text], stop) == (result, found)


@given(splits(st.text("ab\n", min_size=1, max_size=30)))
def test_without_stops_nothing_is_held_back(pieces: list[str]) -> None:
    text = ""
    for piece in pieces:
        text += piece
        assert emit(text, len(text) - len(piece), len(piece), (), final=False).end == len(text)
