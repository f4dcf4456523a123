"""A response of the fusion loop in progress."""

from __future__ import annotations

from dataclasses import dataclass

from coolfusion.backends.source import Source
from coolfusion.decoding.request import sampling_of
from coolfusion.decoding.segments.rerankers import Tally
from coolfusion.decoding.source_view import SourceView
from coolfusion.decoding.state import ResponseState
from coolfusion.tokenization.canonical import Canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class State(ResponseState):
    """A response in progress, as the decoder hands it from step to step.

    ``encoded`` has the canonical encoding of ``text`` for every source of the decoder.
    ``tallies`` say what each source has said of committed segments (empty: nothing yet).
    ``num_contests`` steps had sources score, which took ``num_scored`` tokens.
    """

    encoded: tuple[Canonical, ...]
    tallies: tuple[Tally, ...] = ()
    num_contests: int = 0
    num_scored: int = 0

    @property
    def num_tokens(self) -> tuple[int, ...]:
        """How many tokens the response has so far, for every source of the decoder."""
        return tuple(len(encoded.ids) for encoded in self.encoded)

    def view(self, index: int, source: Source, sample: int = 0) -> SourceView:
        """What source number ``index`` sees; each ``sample`` has sampling noise of its own."""
        sampling = sampling_of(self.request, source.name, sample)
        return SourceView(
            index,
            source,
            self.prompts[index],
            self.encoded[index],
            sampling,
            self.sequence_id,
        )
