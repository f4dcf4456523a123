"""The invented language of the translation benchmark is a function of its seed, and a grammar."""

from __future__ import annotations

import pytest

from benchmarks.translation import chrf
from benchmarks.translation_task import (
    ACTORS,
    FOODS,
    INVENTED,
    IRREGULAR,
    SHARED,
    THINGS,
    Style,
    held_out,
    plural,
    sentences,
    third_person,
)


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert sentences(20, 5, Style()) == sentences(20, 5, Style())
    assert sentences(20, 5, Style()) != sentences(20, 6, Style())


def test_words_are_shared_only_where_they_should_be() -> None:
    assert len(set(INVENTED.values())) == len(INVENTED) - len(SHARED)
    for food, thing in SHARED.items():
        assert INVENTED[food] == INVENTED[thing]
        assert food in FOODS
        assert thing in THINGS


def test_held_out_sentences_are_new_and_different() -> None:
    seen = {pair.source for pair in sentences(500, 1, Style())}
    pairs = held_out(300, 2, Style(), seen)
    assert not seen & {pair.source for pair in pairs}
    assert len({pair.source for pair in pairs}) == 300


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_number_is_marked_and_agrees(share: float) -> None:
    for pair in sentences(50, 3, Style(plural=share, described=0.0, placed=0.0)):
        _, actor, verb, *_ = pair.target.split()
        first, second, _ = pair.source.split()
        assert first.endswith("en") == second.endswith("en") == bool(share)
        assert (actor in map(plural, ACTORS)) if share else (actor in ACTORS)
        assert verb.endswith("s") == (not share)


def test_english() -> None:
    assert [plural(noun) for noun in ("ox", "box", "dog", "wolf")] == [
        "oxen",
        "boxes",
        "dogs",
        "wolves",
    ]
    assert [third_person(verb) for verb in ("carry", "eat")] == ["carries", "eats"]
    assert set(IRREGULAR) < set(ACTORS)


def test_chrf() -> None:
    assert chrf("the dog eats", "the dog eats") == 1.0
    assert chrf("", "the dog eats") == 0.0
    assert 0 < chrf("the dog eat", "the dog eats") < 1
    assert chrf("the dogs eat", "the dog eats") > chrf("a cat", "the dog eats")
