"""The end of a mixture's step: what was decided becomes part of the text, and a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coolfusion.decoding.commit import emit
from coolfusion.decoding.mixture.route import Continuation
from coolfusion.decoding.mixture.state import MixtureState
from coolfusion.errors import ContextLengthError, SourceError
from coolfusion.tokenization.utf8 import whole_characters
from coolfusion.types import (
    Candidate,
    SkippedSource,
    Step,
    StopReason,
    Usage,
)


@dataclass(slots=True)
class MixtureStep:
    """One step under way: what the walks of it have given so far.

    ``before`` is the state at its start, ``state`` the latest, in which nothing is shown yet.
    ``stuck`` says why there is nothing to go on with. Entries per source are by name.
    """

    names: tuple[str, ...]
    before: MixtureState
    state: MixtureState
    continuations: list[Continuation] = field(default_factory=list)
    usage: dict[str, Usage] = field(default_factory=dict)
    dropped: dict[str, SourceError] = field(default_factory=dict)
    stop: StopReason | None = None
    stuck: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is text to show, or nothing will follow."""
        return self.stop is not None or self.state.text != self.before.text

    def spend(self, name: str, usage: Usage) -> None:
        """Note what a source spent."""
        self.usage[name] = self.usage.get(name, Usage()) + usage

    def drop(self, dropped: Mapping[str, SourceError]) -> None:
        """Go on without these sources, if any is left."""
        self.dropped.update(dropped)
        state = self.state
        active = tuple(k for k in state.active if self.names[k] not in dropped)
        failed = any(not isinstance(error, ContextLengthError) for error in dropped.values())
        self.state = replace(state, active=active, any_failed=state.any_failed or failed)
        if not active:
            failed = self.state.any_failed
            self.stop = StopReason.SOURCES_FAILED if failed else StopReason.CONTEXT_LENGTH

    def add(self, continuation: Continuation) -> None:
        """Append what a walk decided, unless it does not fit any more."""
        for name, usage in continuation.usage.items():
            self.spend(name, usage)
        self.drop(continuation.dropped)
        if self.stop is not None:
            return
        longest = max(continuation.num_tokens.values(), default=0)
        if longest > self.state.request.max_new_tokens:
            self.stop = StopReason.LENGTH
            return
        self._append(continuation)
        if continuation.ends:
            self.stop = StopReason.END
        elif continuation.is_full:
            self.stop = StopReason.LENGTH

    def _append(self, continuation: Continuation) -> None:
        state = self.state
        counts = dict(zip(self.names, state.num_tokens or [0] * len(self.names), strict=True))
        data = state.data + continuation.data
        beginning = data[len(state.text.encode()) :]
        self.state = replace(
            state,
            data=data,
            text=state.text + whole_characters(beginning),
            position=continuation.position,
            num_tokens=tuple({**counts, **continuation.num_tokens}.values()),
        )
        if continuation.data or continuation.ends:
            self.continuations.append(continuation)


def commit(turn: MixtureStep) -> tuple[MixtureState, Step]:
    """Show what may be shown of a step that is over, and record it."""
    state, stop = turn.state, turn.stop
    segment = state.text[len(turn.before.text) :]
    shown = emit(
        state.text, state.num_shown, len(segment), state.request.stop, final=stop is not None
    )
    if shown.stop_string is not None:
        stop = StopReason.STOP_STRING
    sources = tuple(turn.names[k] for k in turn.before.active)
    candidates = (_candidate(turn, segment, sources),) if turn.continuations else ()
    step = Step(
        index=state.num_steps,
        text=state.text[state.num_shown : shown.end],
        segment=segment,
        sources=sources,
        candidates=candidates,
        winner=0 if candidates and (segment or candidates[0].ends) else None,
        ends=stop is StopReason.END,
        log_end=None,
        withdrawn=tuple(
            SkippedSource(n, turn.stuck) for n in sources if turn.stuck and n not in turn.dropped
        ),
        dropped=tuple(SkippedSource(name, str(error)) for name, error in turn.dropped.items()),
        usage=tuple(turn.usage.get(name, Usage()) for name in sources),
        seconds=0.0,
    )
    state = replace(
        state,
        text=state.text if shown.stop_string is None else state.text[: shown.end],
        num_shown=shown.end,
        num_steps=state.num_steps + 1,
        stop_reason=stop,
        stop_string=shown.stop_string,
    )
    return state, step


def _candidate(turn: MixtureStep, segment: str, sources: Sequence[str]) -> Candidate:
    """What the step's walks decided together; who is not in all of them has no log-likelihood."""
    walks = turn.continuations
    log_probs = [sum(walk.log_probs.get(name, math.nan) for walk in walks) for name in sources]
    cost = -sum(walk.log_mixture for walk in walks)
    counts = [
        dict(zip(turn.names, each.num_tokens, strict=False)) for each in (turn.before, turn.state)
    ]
    return Candidate(
        segment,
        walks[-1].ends,
        tuple(name for name in sources if all(name in walk.favoured for walk in walks)),
        None if all(map(math.isnan, log_probs)) else tuple(log_probs),
        tuple(counts[1].get(name, 0) - counts[0].get(name, 0) for name in sources),
        None if math.isnan(cost) else cost,
    )
