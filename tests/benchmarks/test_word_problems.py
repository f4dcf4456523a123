"""The generated word problems: right arithmetic, disjoint splits, the same for the same seed."""

from __future__ import annotations

import operator
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.word_problems import extract_answer, generate

OPERATORS = {"+": operator.add, "-": operator.sub, "x": operator.mul, "/": operator.floordiv}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["train", "dev", "test"]))
def test_solutions_are_right(seed: int, split: str) -> None:
    for problem in generate(20, seed=seed, split=split):
        sums = re.findall(r"(\d+) ([-+x/]) (\d+) = (\d+)", problem.solution)
        assert sums
        for left, sign, right, result in sums:
            assert OPERATORS[sign](int(left), int(right)) == int(result)
        assert extract_answer(problem.solution) == problem.answer == sums[-1][3]
        assert not re.search(
            r"\b1 (apples|books|shells)\b|[{}\[\]|]|  ", problem.question + problem.solution
        )


def test_the_same_seed_gives_the_same_problems() -> None:
    assert generate(50, seed=4) == generate(50, seed=4)
    assert generate(50, seed=4) != generate(50, seed=5)


def test_splits_share_no_problem() -> None:
    def numbers_and_thing(question: str) -> tuple[str, ...]:
        return tuple(re.findall(r"\d+ \w+", question))

    questions = {
        split: {problem.question for problem in generate(1500, seed=1, split=split)}
        for split in ("train", "dev", "test")
    }
    assert not questions["train"] & questions["test"]
    assert not questions["dev"] & questions["test"]
    assert len(questions["test"]) > 1000
    assert all(numbers_and_thing(question) for question in questions["test"])


def test_skills_can_be_chosen() -> None:
    assert {problem.skill for problem in generate(40, seed=0, skills=["money"])} == {"money"}
    assert {problem.skill for problem in generate(200, seed=0)} == {
        "change",
        "groups",
        "compare",
        "money",
    }
    with pytest.raises(ValueError, match="cooking"):
        generate(1, seed=0, skills=["cooking"])


def test_an_answer_is_the_last_one_stated() -> None:
    assert extract_answer("The answer is 3. No. The answer is 14.") == "14"
    assert extract_answer("It is 3.") is None
