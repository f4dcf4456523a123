"""Characters of one class are cut alike, in every tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from coolfusion.testing.toys import toy_tokenizer
from coolfusion.tokenization.continuations import examples
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.odd_tokenizers import TEXTS
from tests.tokenization.fidelity.test_losses import NAMES, loaded
from tests.tokenizers_by_hand import BY_HAND, made_by_hand

ENDS = (
    "a",
    "aB",
    "1",
    "11",
    "1111",
    "..",
    "a'",
    "_",
    " ",
    "a ",
    "1  ",
    "\n",
    " \n",
    "\t",
    "\u3042",
)
CHARACTERS = [text for text in examples() if len(text) == 1]


def tokenizer_of(name: str) -> HuggingFaceTokenizer:
    return made_by_hand(name) if name in BY_HAND else loaded(name)


@pytest.mark.parametrize("name", [*BY_HAND, *NAMES])
def test_characters_of_one_class_are_cut_alike(name: str) -> None:
    own = tokenizer_of(name)
    class_of = own.classes_after(ENDS)
    found: dict[object, list[tuple[tuple[int, int], ...]]] = {}
    for character in CHARACTERS[::3]:
        cuts = [own.parts(end + character) for end in ENDS]
        assert found.setdefault(class_of(character), cuts) == cuts


@pytest.mark.parametrize(("name", "most"), [("byte_bpe", 20), ("characters", 1), ("stages", 30)])
def test_classes_are_few(name: str, most: int) -> None:
    assert len(set(map(tokenizer_of(name).classes_after(ENDS), CHARACTERS))) <= most


def test_what_normalisation_joins_to_another_character_is_alone() -> None:
    """An accent joins the letter before it, and capital letters become others."""
    class_of = loaded("nfkc").classes_after(["a"])
    assert class_of("\u0301") == "\u0301"
    assert class_of("b") == class_of("c") != "b"
    assert loaded("lower-case").classes_after(["a"])("B") == "B"


def test_words_that_stand_alone_depend_on_each_character() -> None:
    assert loaded("added-byte_bpe").classes_after(["a"])("b") == "b"


def test_bytes_that_a_later_stage_looks_at_are_not_followed() -> None:
    """After the bytes come digits, and in the alphabet of bytes U+00B2 is one."""
    raw = toy_tokenizer(TEXTS)
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits()]
    )
    class_of = HuggingFaceTokenizer(raw).classes_after(["a"])
    assert class_of("\u0432") == "\u0432"
