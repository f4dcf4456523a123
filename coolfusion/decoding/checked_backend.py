"""A backend as decoders ask it: through its breaker, with every answer checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from coolfusion.backends.answers import (
    Checked,
    checked_distributions,
    checked_drafts,
    checked_scores,
)
from coolfusion.backends.base import Backend, DistributionBackend, Distributions, Query, Scores
from coolfusion.decoding.breaker import breaker_of
from coolfusion.errors import SourceError


@final
class CheckedBackend:
    """Answers like the backend behind it, or with an error in the place of an answer.

    Raises ``SourceError`` where the whole call failed, and ``SourceUnreachableError`` without a
    call where the backend was found unreachable just now (``coolfusion.decoding.breaker``).
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._breaker = breaker_of(backend)

    def score(self, queries: Sequence[Query]) -> Checked[Scores]:
        """Answer a batch of queries, in order."""
        answers = self._breaker.call(lambda: self._backend.score(queries))
        return checked_scores(answers, queries, self._backend.vocab_size)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> Checked[Scores]:
        """Continue each query by ``num_tokens`` picks or more."""
        answers = self._breaker.call(lambda: self._backend.draft(queries, num_tokens))
        return checked_drafts(answers, queries, num_tokens, self._backend.vocab_size)

    def distributions(self, queries: Sequence[Query]) -> Checked[Distributions]:
        """Whole distributions for each query."""
        backend = self._backend
        if not isinstance(backend, DistributionBackend):
            raise SourceError(
                f"The backend {type(backend).__name__} has no method distributions, so that "
                "nothing is known of the tokens it would not choose."
            )
        answers = self._breaker.call(lambda: backend.distributions(queries))
        return checked_distributions(answers, queries, backend.vocab_size)
