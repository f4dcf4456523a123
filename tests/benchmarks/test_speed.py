"""The comparison of ways to decode: all of them write one text, and the work is counted."""

from __future__ import annotations

import pytest

from benchmarks.grown import grown
from benchmarks.speed import compare, greedy, over_slowest_batch, with_own_caches
from benchmarks.word_problems import generate
from coolfusion import Request, SegmentDecoder, Source
from coolfusion.builtin import builtin_paths

CHATS = [
    [{"role": "user", "content": problem.question}] for problem in generate(2, seed=5, split="test")
]
SHORT = Request(max_new_tokens=8)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [grown(path, 0) for path in builtin_paths()[:2]]


def test_all_ways_write_one_text(sources: list[Source]) -> None:
    found = compare(sources, CHATS, naive=True, request=SHORT)
    assert found["identical"]
    assert found["reencoding_forwarded"] > 10 * found["forwarded"] > 0


def test_nothing_is_found_in_caches_of_others(sources: list[Source]) -> None:
    forwarded = [
        SegmentDecoder(with_own_caches(sources), speculation=None)
        .generate(CHATS[0], SHORT)
        .stats.usage["sums"]
        .num_forwarded
        for _ in range(2)
    ]
    assert forwarded[0] == forwarded[1] > len(sources[0].tokenizer.encode_prompt(CHATS[0]))


def test_a_batch_of_generate_is_what_each_row_is_alone(sources: list[Source]) -> None:
    chats = [CHATS[0], [{"role": "user", "content": "Mia has 2 plums."}]]
    together = greedy(sources[0], chats, 8)
    alone = [greedy(sources[0], [chat], 8) for chat in chats]
    assert [row[-8:].tolist() for row in together] == [row[0, -8:].tolist() for row in alone]
    assert over_slowest_batch(sources, chats, SHORT) > 0
