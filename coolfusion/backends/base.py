"""The seam to a model: ids in, numbers out.

A backend knows nothing of text, tokenizers or fusion. The caller names the whole prefix
every time; whatever a backend remembers between calls is private and can only change how
long an answer takes. The laws every backend obeys are checked by
``coolfusion.testing.check_backend``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coolfusion.backends.sampling import GREEDY, Sampling


@dataclass(frozen=True, slots=True)
class Query:
    """A question to a backend: what of ``continuation``, given ``prefix``?

    ``prefix`` holds at least one id; that of an encoder-decoder model begins with its encoder's
    input, as ids from ``vocab_size`` on. ``watch`` names ids whose total probability is wanted
    at every position (the ids that end a text, say). ``sequence_id`` is a hint: queries about one
    growing text carry the same number, so that a cache finds it without a search. No answer
    depends on it.
    """

    prefix: tuple[int, ...]
    continuation: tuple[int, ...] = ()
    watch: tuple[int, ...] = ()
    sampling: Sampling = GREEDY
    sequence_id: int | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer to a query with a continuation of L tokens. All logarithms are in nats.

    ``log_probs`` (L): log-probability of each continuation token given all before it.
    ``picks`` (L + 1): the token the model itself would choose at each position, the one
    after the last included. ``pick_log_probs`` (L + 1): their log-probabilities under the
    unfiltered distribution. ``watched`` (L + 1): log of the total probability of the
    watched ids (-inf where none are watched). ``num_forwarded``: tokens the model computed
    for this query; ``num_passes``: forward passes it took part in.
    """

    log_probs: tuple[float, ...]
    picks: tuple[int, ...]
    pick_log_probs: tuple[float, ...]
    watched: tuple[float, ...]
    num_forwarded: int = 0
    num_passes: int = 0


class Backend(Protocol):
    """What the decoder needs from a model.

    Laws, for every implementation: log-probabilities obey the chain rule and are finite and
    at most 0; an answer depends on its query alone, not on earlier calls, on the order of a
    batch or on its other members; what ``draft`` picks is what ``score`` says would be
    picked; abandoning a draft changes nothing. Failures are ``SourceError``s.
    """

    @property
    def vocab_size(self) -> int:
        """Number of ids; valid ids are 0 to ``vocab_size - 1``."""
        ...

    @property
    def context_length(self) -> int | None:
        """Most tokens a prefix and its continuation may have together; None: no limit."""
        ...

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries, in order."""
        ...

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """Let the model continue every ``prefix + continuation`` by ``num_tokens`` picks.

        The answer to each query describes the drafted tokens as ``score`` would if they were
        its continuation, but for what follows the last of them: all its tuples have
        ``num_tokens`` entries, or more where further picks cost nothing. A caller that wants
        more asks again with a longer prefix.
        """
        ...


@dataclass(frozen=True, slots=True)
class Distributions:
    """All that a model says after a query's prefix and after each of its L continuation tokens.

    ``log_probs`` (L + 1, vocab_size), in nats: every row's exponentials sum to 1, and ids that
    cannot follow have -inf. The costs are those of ``Scores``.
    """

    log_probs: NDArray[np.float64]
    num_forwarded: int = 0
    num_passes: int = 0


@runtime_checkable
class DistributionBackend(Backend, Protocol):
    """A backend that gives whole next-token distributions, which mixtures are made of.

    Laws beyond those of ``Backend``: what ``score`` says of a token is its entry here.
    """

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Answer a batch of queries, in order; their ``watch`` and ``sampling`` play no part."""
        ...
