"""Passes that are interrupted: what was planned and not computed is not taken for cached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface import TransformersBackend
from coolfusion.errors import SourceError
from tests.backends.huggingface.test_causal import VOCAB, WATCH, assert_plain, make_model

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
