"""The seam to a model: ids in, numbers out.

A backend knows nothing of text, tokenizers or fusion. The caller gives the whole prefix every
time. What a backend caches between calls is private and only affects speed.
``coolfusion.testing.check_backend`` checks the laws that every backend obeys.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from coolfusion.backends.sampling import GREEDY, Sampling


@dataclass(frozen=True, slots=True)
class Query:
    """A question to a backend: how likely is ``continuation`` after ``prefix``?

    ``prefix`` holds at least one id. For an encoder-decoder model it begins with the encoder's
    input, as ids from ``vocab_size`` on. ``watch`` names ids whose total probability is wanted at
    every position, for example the ids that end a text. ``sequence_id`` is a hint for caches:
    queries about one growing text have the same number. No answer depends on it.
    """

    prefix: tuple[int, ...]
    continuation: tuple[int, ...] = ()
    watch: tuple[int, ...] = ()
    sampling: Sampling = GREEDY
    sequence_id: int | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer to a query with a continuation of L tokens. All logarithms are in nats.

    - ``log_probs`` (L): log-probability of each continuation token given all before it.
    - ``picks`` (L + 1): the model's own choice at each position and after the last token.
    - ``pick_log_probs`` (L + 1): their log-probabilities under the unfiltered distribution.
    - ``watched`` (L + 1): log of the total probability of the watched ids; -inf without any.
    - ``num_forwarded``: tokens that the model computed for this query.
    - ``num_passes``: forward passes that the query took part in.

    ``log_probs`` and ``watched`` may hold -inf: the source excludes that. A pick is possible, so
    its log-probability is finite. docs/method/algorithm.md says what follows from a zero.
    """

    log_probs: tuple[float, ...]
    picks: tuple[int, ...]
    pick_log_probs: tuple[float, ...]
    watched: tuple[float, ...]
    num_forwarded: int = 0
    num_passes: int = 0


class Backend(Protocol):
    """The interface of a model to the decoder.

    Laws for every implementation:

    - Log-probabilities obey the chain rule and are at most 0. One that is -inf excludes a token.
    - An answer depends on its query alone: not on earlier calls, the order of a batch or its
      other members.
    - The picks of ``draft`` are those that ``score`` reports.
    - An abandoned draft changes nothing.
    - Failures are ``SourceError``s. A backend that cannot be reached raises
      ``SourceUnreachableError``, and is left alone for a while.

    Every answer is checked as it comes in (``coolfusion.backends.answers``). One that breaks these
    laws by its shape, its types or its values is a failure of the source.
    """

    @property
    def vocab_size(self) -> int:
        """Number of ids; valid ids are 0 to ``vocab_size - 1``."""
        ...

    @property
    def context_length(self) -> int | None:
        """Most tokens that a prefix and its continuation may have together; None: no limit."""
        ...

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries, in order."""
        ...

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """Let the model continue every ``prefix + continuation`` by ``num_tokens`` picks.

        An answer describes the drafted tokens as ``score`` would if they were the continuation.
        It has no entry for the position after the last token. All four tuples are of one length,
        which is ``num_tokens`` or more: a backend may add picks that it knows already. Each pick
        is then the one after all before it. To draft more, call again with a longer prefix.
        """
        ...


@dataclass(frozen=True, slots=True)
class Distributions:
    """Next-token distributions after a query's prefix and each of its L continuation tokens.

    ``log_probs`` (L + 1, vocab_size) are in nats. The exponentials of every row sum to 1, and ids
    that cannot follow have -inf. The costs are those of ``Scores``.
    """

    log_probs: NDArray[np.float64]
    num_forwarded: int = 0
    num_passes: int = 0


@runtime_checkable
class DistributionBackend(Backend, Protocol):
    """A backend that gives whole next-token distributions, which mixtures need.

    One law more than ``Backend``: the log-probability of a token in ``score`` is its entry here.
    """

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Answer a batch of queries, in order; their ``watch`` and ``sampling`` are not used."""
        ...


@runtime_checkable
class ForgetfulBackend(Backend, Protocol):
    """A backend that can forget what it caches. Whoever compares costs starts from nothing."""

    def forget(self) -> None:
        """Drop all that earlier calls left behind. The next answers cost what the first ones did."""
        ...


# The locks of backends that are asked. Caches of models are not made for several threads at once.
_TURNS: WeakValueDictionary[int, threading.Lock] = WeakValueDictionary()


def turn_of(backend: Backend) -> threading.Lock:
    """The lock that a thread holds while it asks a backend, the same for all decoders.

    Whoever keeps the lock keeps the backend too, so that its number belongs to no other.
    """
    return _TURNS.setdefault(id(backend), threading.Lock())


def forget(backend: Backend) -> None:
    """Let a backend forget what it caches, if it can. Threads take turns."""
    if isinstance(backend, ForgetfulBackend):
        with turn_of(backend):
            backend.forget()
