"""One source's view of a response, which makes every question to its model."""

from __future__ import annotations

from dataclasses import dataclass, field

from coolfusion.backends.base import Query
from coolfusion.backends.sampling import GREEDY, Sampling
from coolfusion.backends.source import Source
from coolfusion.decoding.scheduler import DistributionRequest, ModelRequest
from coolfusion.errors import ContextLengthError
from coolfusion.tokenization.canonical import Canonical


@dataclass(frozen=True, slots=True)
class SourceView:
    """What source number ``index`` sees of a response.

    ``prompt_ids`` are its ids of the prompt and ``encoded`` its canonical encoding of the
    response so far. ``sampling`` carries the noise of this source alone. ``sequence_id`` names
    the response in caches; no answer depends on it (None: nothing is remembered).
    """

    index: int
    source: Source
    prompt_ids: tuple[int, ...]
    encoded: Canonical = field(default_factory=Canonical)
    sampling: Sampling = GREEDY
    sequence_id: int | None = None

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids of the prompt and of the response so far."""
        return self.prompt_ids + self.encoded.ids

    def request(self, prefix: tuple[int, ...], continuation: tuple[int, ...] = ()) -> ModelRequest:
        """Asks for the log-probabilities of ``continuation``, and of an end, after ``prefix``."""
        return ModelRequest(self.index, self._query(prefix, continuation))

    def draft_request(self, prefix: tuple[int, ...]) -> ModelRequest:
        """Asks for the model's own next picks after ``prefix``."""
        return ModelRequest(self.index, self._query(prefix, ()), is_draft=True)

    def distribution_request(self, prefix: tuple[int, ...]) -> DistributionRequest:
        """Asks for the whole distribution after ``prefix``."""
        return DistributionRequest(self.index, Query(prefix, sequence_id=self.sequence_id))

    def is_full(self, num_tokens: int) -> bool:
        """Whether the context window has no room left after ``num_tokens`` tokens."""
        limit = self.source.backend.context_length
        return limit is not None and num_tokens >= limit

    def check_room(self, num_tokens: int) -> None:
        """Raise ``ContextLengthError`` unless one more token fits after ``num_tokens``."""
        if self.is_full(num_tokens):
            raise ContextLengthError(
                f"The context window of {self.source.backend.context_length} tokens is full after "
                f"{num_tokens} tokens of prompt and response."
            )

    def _query(self, prefix: tuple[int, ...], continuation: tuple[int, ...]) -> Query:
        # An id that the backend does not have is never drawn, and cannot be asked for.
        size = self.source.backend.vocab_size
        watch = tuple(sorted(t for t in self.source.tokenizer.end_ids if 0 <= t < size))
        return Query(prefix, continuation, watch, self.sampling, self.sequence_id)
