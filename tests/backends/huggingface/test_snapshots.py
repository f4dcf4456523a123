"""What a model whose state cannot be rolled back computes again, and what it does not."""

from __future__ import annotations

import pytest

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.logits import read_scores
from coolfusion.backends.huggingface.snapshots import MAX_SNAPSHOTS, SnapshotPasses
from tests.backends.huggingface.test_causal import VOCAB, WATCH, assert_plain, model_of

TEXT = tuple(range(1, 20))


def forwarded(passes: SnapshotPasses, length: int) -> int:
    """How many tokens a question after so many tokens of the text costs."""
    query = Query(TEXT[:length], (), WATCH)
    (scores,) = passes.answer([query], read_scores)
    assert_plain(model_of("mamba"), query, scores)
    return scores.num_forwarded


@pytest.mark.parametrize("step", [1, 0])
def test_a_text_goes_on_from_its_longest_known_beginning(step: int) -> None:
    passes = SnapshotPasses(model_of("mamba"), VOCAB, step)
    asked = [forwarded(passes, length) for length in (5, 8, 6, 8, 11, 5)]
    assert asked == ([5, 3, 1, 0, 3, 0] if step else [5, 8, 6, 0, 11, 0])


def test_the_longest_unused_state_is_dropped() -> None:
    passes = SnapshotPasses(model_of("mamba"), VOCAB, 1)
    forwarded(passes, 2)
    for length in range(3, 3 + MAX_SNAPSHOTS):
        forwarded(passes, 1 + length)
    assert forwarded(passes, 2) == 2
    assert forwarded(passes, 2 + MAX_SNAPSHOTS) == 0


@pytest.mark.parametrize("kind", ["mamba", "lfm2", "qwen3_next"])
@pytest.mark.parametrize("num_candidates", [1, 3])
def test_a_state_is_not_used_up(kind: str, num_candidates: int) -> None:
    passes = SnapshotPasses(model_of(kind), VOCAB, 1)
    for token in range(20, 23):
        queries = [
            Query(TEXT[:6], (token, number), WATCH) for number in range(30, 30 + num_candidates)
        ]
        for query, scores in zip(queries, passes.answer(queries, read_scores), strict=True):
            assert_plain(model_of(kind), query, scores)
