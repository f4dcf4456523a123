"""The breaker: a source that cannot be reached is left alone for a while, by everyone.

A call to something that is down may take a minute to fail. Without a breaker, every row of a
batch and every step would wait for it again. The states are those of the circuit breaker
(Nygard 2007):

    closed      calls go through; one that finds the source unreachable opens the breaker
    open        no call goes through until the wait is over; each fails at once
    half open   after the wait one call goes through, the probe, and the others fail at once.
                If the probe is answered, the breaker closes; if not, the wait doubles

The wait begins with ``FIRST_WAIT`` and ends at ``LONGEST_WAIT``. An error that says when to try
again (``SourceUnreachableError.retry_after``) is believed.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, TypeVar, final

from coolfusion.decoding.scheduler import as_source_error
from coolfusion.errors import SourceUnreachableError

FIRST_WAIT: Final = 30.0  # seconds
LONGEST_WAIT: Final = 600.0  # seconds

Result = TypeVar("Result")


@final
class Breaker:
    """The breaker of one source. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._reason = ""
        self._wait = 0.0
        self._until = -math.inf  # when a probe may go through, once the breaker is open
        self._is_open = False
        self._is_probing = False

    def call(self, ask: Callable[[], Result]) -> Result:
        """What ``ask`` returns or raises, unless the source was found unreachable just now.

        Raises ``SourceUnreachableError`` then, and where ``ask`` finds that it is.
        """
        is_probe = self._admit()
        try:
            result = ask()
        except Exception as error:
            failure = as_source_error(error)
            if isinstance(failure, SourceUnreachableError):
                self._open(failure)
            else:
                self._close()  # what answers with an error can be reached
            raise failure from failure.__cause__
        else:
            self._close()
            return result
        finally:
            if is_probe:
                self._is_probing = False

    def _admit(self) -> bool:
        """Whether this call is the probe. Raises where no call may go through."""
        with self._lock:
            if not self._is_open:
                return False
            if self.clock() >= self._until and not self._is_probing:
                self._is_probing = True
                return True
            raise SourceUnreachableError(
                f"{self._reason} It is left alone for {self._wait:g} seconds after that."
            )

    def _open(self, error: SourceUnreachableError) -> None:
        with self._lock:
            self._wait = min(LONGEST_WAIT, 2 * self._wait) if self._wait else FIRST_WAIT
            if error.retry_after is not None:
                self._wait = error.retry_after
            self._reason = str(error)
            self._until = self.clock() + self._wait
            self._is_open = True

    def _close(self) -> None:
        if self._is_open or self._wait:
            with self._lock:
                self._is_open, self._wait = False, 0.0


_BREAKERS: dict[int, tuple[weakref.ref[object], Breaker]] = {}
_LOCK = threading.Lock()


def breaker_of(backend: object) -> Breaker:
    """The breaker that all who ask this backend in this process share.

    A backend with ``__slots__`` but without ``__weakref__`` gets a new one each time. Only the
    rows of one decoder share that.
    """
    key = id(backend)
    with _LOCK:
        known = _BREAKERS.get(key)
        if known is not None and known[0]() is backend:
            return known[1]
        breaker = Breaker()
        try:
            _BREAKERS[key] = weakref.ref(backend, lambda _: _forget(key)), breaker
        except TypeError:
            return breaker
        return breaker


def _forget(key: int) -> None:
    # Subtle: another object may have been given the id already, so that the entry is alive again.
    known = _BREAKERS.get(key)
    if known is not None and known[0]() is None:
        _BREAKERS.pop(key, None)
