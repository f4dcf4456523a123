"""A response in progress: what is the same however the next piece of it is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from coolfusion.backends.source import Source
from coolfusion.decoding.request import Request, sampling_of
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import ContextLengthError, SourceError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseState:
    """A response in progress. States are values: a step makes a new one.

    ``prompts`` has the prompt ids of every source of the decoder; ``active`` indexes the
    sources that still take part. ``num_shown`` characters of ``text`` have been emitted.
    ``sequence_id`` tells responses apart in caches, and nothing else depends on it (None:
    nothing is remembered between steps). ``log_weights`` are logarithms of weights that sum to
    1, one per source of the decoder; empty: equal ones, or not known yet.
    """

    request: Request
    prompt: Prompt
    prompts: tuple[tuple[int, ...], ...]
    active: tuple[int, ...]
    sequence_id: int | None
    text: str = ""
    num_shown: int = 0
    num_steps: int = 0
    stop_reason: StopReason | None = None
    stop_string: str | None = None
    any_failed: bool = False
    log_weights: tuple[float, ...] = ()

    @property
    def num_tokens(self) -> tuple[int, ...]:
        """How many tokens the response has so far, for every source (empty: nothing yet)."""
        return ()

    def view(self, index: int, source: Source, sample: int = 0) -> SourceView:
        """What source number ``index`` sees; each ``sample`` has sampling noise of its own."""
        sampling = sampling_of(self.request, source.name, sample)
        return SourceView(
            index, source, self.prompts[index], sampling=sampling, sequence_id=self.sequence_id
        )

    def stop_without_sources(self) -> StopReason:
        """Why a response ends that has no active source left."""
        return StopReason.SOURCES_FAILED if self.any_failed else StopReason.CONTEXT_LENGTH


AnyState = TypeVar("AnyState", bound=ResponseState)


def without_sources(state: AnyState, dropped: Mapping[int, SourceError]) -> AnyState:
    """The state in which these sources, by number, take part no more.

    A source whose context window is full has not failed.
    """
    failed = any(not isinstance(error, ContextLengthError) for error in dropped.values())
    return replace(
        state,
        active=tuple(k for k in state.active if k not in dropped),
        any_failed=state.any_failed or failed,
    )
