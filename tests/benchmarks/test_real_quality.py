"""The made task of the real-data benchmark: right references, and no problem in both splits."""

from __future__ import annotations

from pathlib import Path

from benchmarks.real_quality import COUNTS, SHOTS, arithmetic


def test_problems_are_right_and_never_come_twice() -> None:
    kind = arithmetic(Path())
    assert {split: len(rows) for split, rows in kind.rows.items()} == COUNTS
    prompts = [row["prompt"] for rows in kind.rows.values() for row in rows]
    *shots, _ = prompts[0].splitlines()
    assert len(shots) == SHOTS
    questions = [prompt.splitlines()[-1] for prompt in prompts] + [
        shot.rpartition(" ")[0] for shot in shots
    ]
    assert len(set(questions)) == len(questions) == SHOTS + sum(COUNTS.values())
    for shot in shots:
        question, _, answer = shot.rpartition(" = ")
        assert int(answer) == worked_out(question)
    for rows in kind.rows.values():
        for row in rows:
            assert row["reference"] == worked_out(row["prompt"].splitlines()[-1].rstrip(" ="))


def worked_out(question: str) -> int:
    one, sign, other = question.split()
    return int(one) + int(other) if sign == "+" else int(one) - int(other)
