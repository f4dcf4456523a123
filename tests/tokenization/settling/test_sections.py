"""What is settled stays where names and spelled characters take a text apart, or the model drops some."""

from __future__ import annotations

import random

import pytest

from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.settling.sections import Sections
from tests.odd_tokenizers import ADDED
from tests.tokenization.fidelity.test_losses import loaded
from tests.tokenization.test_canonical import Counting

NAMES = (
    *("added-sentencepiece_bpe", "added-unigram", "sentencepiece_bpe", "literal-names"),
    *("marks-of-spaces", "no-0x0b", "stripped"),
)
ATOMS = (
    *(token.content for token in ADDED),
    *(token.content[:-1] for token in ADDED if len(token.content) > 1),
    *("\u2581", "\x0b", "\ufffd", "<0x41>", "<unk>", "a", " ", "\n", "ab ", "words", "1", "\u65e5"),
    *(" " * 33, "#" * 40),
)


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_names_in_chunks(name: str) -> None:
    own, noise = loaded(name), random.Random(name)
    for _ in range(40):
        few = noise.choices(ATOMS, k=noise.choice([2, 3, 8]))
        text = "".join(noise.choices(few, k=noise.choice([5, 30])))[:200]
        canonical, end = Canonical(), 0
        while end < len(text):
            begin, end = end, end + noise.choice([1, 2, 5, 20])
            canonical = extend(canonical, text[begin:end], own)
            assert canonical.ids == own.encode(text[:end]), text[:end]


@pytest.mark.parametrize("name", NAMES)
def test_positions_between_names_hold_for_any_more_text(name: str) -> None:
    own, noise = loaded(name), random.Random(name)
    for _ in range(40):
        text = "".join(noise.choices(ATOMS, k=8))
        more = "".join(noise.choices(ATOMS, k=3))
        before, whole = own.encode(text), own.encode(text + more)
        for each in own.settled("", text):
            rest = own.encode(each.lead + text[each.position :])[each.num_skipped :]
            kept = before[: len(before) - len(rest)]
            if kept + rest == before:
                longer = own.encode(each.lead + text[each.position :] + more)[each.num_skipped :]
                assert whole == kept + longer, (text, more)


@pytest.mark.parametrize("name", ["added-sentencepiece_bpe", "added-unigram", "sentencepiece_bpe"])
@pytest.mark.parametrize("repeated", ["ab\u2581", "word a ", "</s>ab", "<l>", "ab. ", "a\x0b"])
def test_work_does_not_grow_with_the_number_of_names(name: str, repeated: str) -> None:
    counting, text = Counting(loaded(name)), repeated * 700
    canonical = Canonical()
    for end in range(0, 2_000, 4):
        counting.num_characters = 0
        canonical = extend(canonical, text[end : end + 4], counting)
        assert counting.num_characters <= 500


def test_the_beginning_of_a_name_is_held_back() -> None:
    def search(text: str, start: int) -> tuple[int, int] | None:
        found = text.find("<end>", start)
        return None if found < 0 else (found, found + 5)

    sections = Sections([search], ["<end>"])
    assert sections.last("a <end> b <en") == (7, 10)
    assert sections.last("a <end> b <em") == (7, 13)
    assert not sections.joins_nothing("a <e")
