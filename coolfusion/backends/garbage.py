"""Pauses of Python's garbage collector while data of millions of objects is read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_pauses: list[bool] = []  # of each pause under way, whether the collector worked before them all


@contextmanager
def collection_paused() -> Iterator[None]:
    """Nothing is looked through for cycles until the last of all pauses, in any thread, ends.

    A tokenizer of 33 MB is read as a million lists. The collector goes through all of them again
    and again, which takes much of the time. At the end it goes through what is left of them once.
    """
    with _lock:
        _pauses.append(gc.isenabled() if not _pauses else _pauses[0])
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            works = _pauses.pop() and not _pauses
            if works:
                gc.enable()
        if works:
            # The two young generations, which hold what was made during the pause.
            gc.collect(1)
