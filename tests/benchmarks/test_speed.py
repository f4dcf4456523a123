"""The comparison of ways to decode: all of them write one text, and the work is counted."""

from __future__ import annotations

from benchmarks.grown import grown
from benchmarks.speed import compare, greedy
from benchmarks.word_problems import generate
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.request import Request

SOURCES = [grown(path, 0) for path in builtin_paths()[:2]]
CHATS = [
    [{"role": "user", "content": problem.question}] for problem in generate(2, seed=5, split="test")
]


def test_all_ways_write_one_text() -> None:
    found = compare(SOURCES, CHATS, naive=True, request=Request(max_new_tokens=8))
    assert found["identical"]
    assert found["reencoding_forwarded"] > 10 * found["forwarded"] > 0


def test_a_batch_of_generate_is_what_each_row_is_alone() -> None:
    source = SOURCES[0]
    chats = [CHATS[0], [{"role": "user", "content": "Mia has 2 plums."}]]
    together = greedy(source, chats, 8)
    alone = [greedy(source, [chat], 8) for chat in chats]
    assert [row[-8:].tolist() for row in together] == [row[0, -8:].tolist() for row in alone]
