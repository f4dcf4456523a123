"""What keeps held-out problems held out, and their English right."""

from __future__ import annotations

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import word_problems
from benchmarks.stories import STORIES
from benchmarks.word_bank import FAMILIES, WARES, Noun
from benchmarks.word_problems import generate

NOUNS = {noun for family in FAMILIES for noun in (*family.nouns, *family.containers)} | {*WARES}
PLURALS = {noun.plural for noun in NOUNS} | {"dollars", "weeks", "friends", "years"}
SINGULARS = {noun.singular for noun in NOUNS} | {"dollar"}
SEEDS = st.integers(0, 100_000)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(STORIES), st.sampled_from(sorted(NOUNS, key=str)))
def test_names_and_phrasing_do_not_decide_the_split(
    seed: int, story: word_problems.Story, counted: Noun
) -> None:
    numbers = story.draw(Random(seed))
    key = "w" if story.skill == "money" else "n"
    others = {"c": Noun("bag", "bags"), "v": Noun("cup", "cups"), "n": counted, "w": counted}
    splits = {
        word_problems._split_of(story, numbers, others | {key: counted, "c": container})
        for container in FAMILIES[0].containers
    }
    reordered = dict(reversed(numbers.items()))
    splits.add(word_problems._split_of(story, reordered, others))
    assert len(splits) == 1


@settings(max_examples=30, deadline=None)
@given(SEEDS, SEEDS)
def test_no_two_splits_tell_of_the_same_numbers_of_the_same_things(one: int, other: int) -> None:
    def told(seed: int, split: str) -> set[str]:
        return {problem.solution for problem in generate(200, seed=seed, split=split)}

    assert not told(one, "train") & told(other, "test")
    assert not told(one, "dev") & told(other, "test")


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_counted_nouns_agree_with_their_numbers(seed: int) -> None:
    for problem in generate(50, seed=seed):
        text = f"{problem.question} {problem.solution}"
        for number, word in re.findall(r"(?<![$\d])(\d+) ([a-z]+)", text):
            if word in PLURALS:
                assert number != "1", text
            if word in SINGULARS - PLURALS:
                assert number == "1", text


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_texts_are_whole_sentences_and_numbers_stay_small(seed: int) -> None:
    for problem in generate(50, seed=seed):
        assert problem.question[0].isupper()
        assert problem.question.endswith("?")
        assert problem.question.count("?") == 1
        assert problem.solution.endswith(f" The answer is {problem.answer}.")
        for text in (problem.question, problem.solution):
            assert all(part[0].isupper() for part in re.split(r"(?<=[.?]) ", text))
            assert all(1 <= int(number) <= 100 for number in re.findall(r"\d+", text))
            assert not re.search(r"\ba [aeiou]", text)


def test_two_splits_of_one_seed_are_drawn_apart() -> None:
    firsts = {split: generate(1, seed=0, split=split)[0] for split in ("train", "dev", "test")}
    assert len({problem.question for problem in firsts.values()}) == 3
