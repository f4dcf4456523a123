"""Passes that are interrupted: what was planned and not computed is not taken for cached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface import TransformersBackend, cache_rows, packed
from coolfusion.errors import SourceError
from tests.backends.huggingface.test_causal import VOCAB, WATCH, assert_plain, make_model, model_of

TEXT = tuple(range(1, 11))
LONGER = (*TEXT, 50, 51)


@contextmanager
def interrupted(module: Any, error: BaseException, after: int = 0) -> Iterator[None]:
    """Let ``module`` raise an error when it is called, and has been called ``after`` times."""
    left = [after]

    def stop(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    handle = module.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("sequence_id", [None, 7])
def test_an_interrupted_pass_leaves_nothing_behind(
    error: BaseException, layer: int, sequence_id: int | None
) -> None:
    """Interrupted before the first layer, or between the first and the second."""
    model = make_model("llama")
    backend = TransformersBackend(model)
    backend.score([Query(TEXT, (), WATCH, sequence_id=sequence_id)])
    asked = [Query(LONGER, (52, 53), WATCH, sequence_id=sequence_id)]
    with interrupted(model.model.layers[layer], error), pytest.raises(type(error)):
        backend.score(asked)
    again = [*asked, Query(LONGER, (54,), WATCH, sequence_id=sequence_id)]
    for query, scores in zip(again, backend.score(again), strict=True):
        assert_plain(model, query, scores)


def test_an_interrupted_batch_leaves_nothing_behind() -> None:
    """The second of two passes is interrupted: the rows are too unequal to be padded."""
    model = make_model("llama")
    backend = TransformersBackend(model)
    queries = [
        Query(tuple(i * i % VOCAB for i in range(90)), (1, 2), WATCH, sequence_id=1),
        Query(TEXT, (3,), WATCH, sequence_id=2),
        Query(LONGER[::-1], (4, 5), WATCH, sequence_id=3),
    ]
    second = interrupted(model.model.layers[1], KeyboardInterrupt(), after=1)
    with second, pytest.raises(KeyboardInterrupt):
        backend.score(queries)
    for query, scores in zip(queries, backend.score(queries), strict=True):
        assert_plain(model, query, scores)


def test_a_query_with_a_foreign_id_leaves_nothing_behind() -> None:
    model = make_model("llama")
    backend = TransformersBackend(model)
    backend.score([Query(TEXT, (), WATCH, sequence_id=1)])
    with pytest.raises(SourceError, match="vocabulary"):
        backend.score([Query(LONGER, (52, VOCAB), WATCH, sequence_id=1)])
    query = Query((*LONGER, 52), (53,), WATCH, sequence_id=1)
    assert_plain(model, query, backend.score([query])[0])


@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), min_size=2, max_size=6),
    seed=st.integers(0, 9),
)
def test_new_texts_that_begin_alike_are_answered_as_alone(
    lengths: list[tuple[int, int]], seed: int
) -> None:
    """Whatever they share, in pieces or not, and beside texts that share nothing."""
    common = [(seed + 7 * i) % VOCAB for i in range(30)]
    texts = [
        (*common[:num], *(range(40 + number, 40 + number + more)))
        for number, (num, more) in enumerate(lengths)
    ]
    queries = [Query(ids, (1, 2), WATCH, sequence_id=n) for n, ids in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_rows, "ALIKE", 3)
        patch.setattr(packed, "PREFILL", 12)
        answers = TransformersBackend(model_of("mistral")).score(queries)
    for query, scores in zip(queries, answers, strict=True):
        assert_plain(model_of("mistral"), query, scores)


def test_what_new_texts_have_in_common_is_computed_once() -> None:
    """Two prompts of two samples each; all that is computed is charged, and nothing twice."""
    backend = TransformersBackend(model_of("llama"))
    prompts = [tuple((first + 5 * i) % VOCAB for i in range(80)) for first in (1, 2)]
    queries = [Query(prompts[number % 2], sequence_id=number) for number in range(4)]
    answers = backend.score(queries)
    assert [answer.num_forwarded for answer in answers] == [80, 80, 1, 1]
    assert [answer.num_passes for answer in answers] == [2, 2, 1, 1]
    for query, scores in zip(queries, answers, strict=True):
        assert_plain(model_of("llama"), query, scores)
    again = backend.score([Query((*prompts[0], 3), sequence_id=2)])[0]
    assert again.num_forwarded == 1


@pytest.mark.parametrize("after", [0, 1])
def test_an_interruption_of_texts_that_begin_alike_leaves_nothing_behind(after: int) -> None:
    """What one text has computed is no other's before it is copied."""
    model = make_model("llama")
    backend = TransformersBackend(model)
    queries = [Query(tuple(range(1, 81)), sequence_id=number) for number in range(3)]
    with interrupted(model.lm_head, KeyboardInterrupt(), after), pytest.raises(KeyboardInterrupt):
        backend.score(queries)
    for query, scores in zip(queries, backend.score(queries), strict=True):
        assert_plain(model, query, scores)
