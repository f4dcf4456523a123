"""The collector pauses while anybody loads, and then is as it was before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from coolfusion.backends.garbage import collection_paused


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """A collector at work, before and after."""
    assert gc.isenabled()
    yield
    gc.enable()


def test_pauses_inside_each_other_end_with_the_last() -> None:
    with collection_paused():
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_a_pause() -> None:
    with pytest.raises(KeyError), collection_paused():
        raise KeyError
    assert gc.isenabled()


def test_a_collector_that_did_not_work_stays_so() -> None:
    gc.disable()
    with collection_paused(), collection_paused():
        pass
    assert not gc.isenabled()


def test_pauses_of_threads_may_overlap() -> None:
    begun, first_is_over = Barrier(2), Barrier(2)

    def short() -> bool:
        with collection_paused():
            begun.wait()
        first_is_over.wait()
        return gc.isenabled()

    def long() -> bool:
        with collection_paused():
            begun.wait()
            first_is_over.wait()
            return gc.isenabled()

    with ThreadPoolExecutor(2) as threads:
        still, _ = threads.submit(long), threads.submit(short)
        assert still.result() is False
    assert gc.isenabled()
