"""Pages say what the benchmark of real models printed last."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.real_prompts import HELD_OUT, KINDS, MAIN

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "real_speed.md"
PAGES = {"README.md": 5, "docs/measure/benchmarks.md": 8}  # rows of the result in each


@pytest.mark.parametrize("page", PAGES)
def test_rows_in_pages_are_those_of_the_result(page: str) -> None:
    first_table = RESULT.read_text("utf-8").split("\n\n")[1].splitlines()
    printed = {line.split("|")[1]: line for line in first_table if "---" not in line}
    lines = (ROOT / page).read_text("utf-8").splitlines()
    told = [line for line in lines if line[:1] == "|" and line.split("|")[1] in printed]
    assert told == [printed[line.split("|")[1]] for line in told]
    assert len(told) == PAGES[page] + 1  # with the head of the table


def test_there_is_a_prompt_of_every_kind_twice() -> None:
    assert len(KINDS) == len(MAIN) == len(HELD_OUT) == len({*MAIN, *HELD_OUT}) / 2
