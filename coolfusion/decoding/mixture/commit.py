"""The end of a mixture's step: what was decided becomes part of the text, and a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coolfusion.decoding.commit import finish_step
from coolfusion.decoding.mixture.route import Continuation
from coolfusion.decoding.mixture.state import MixtureState
from coolfusion.decoding.state import without_sources
from coolfusion.errors import SourceError
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
        by_number = {self.names.index(name): error for name, error in dropped.items()}
        self.state = without_sources(self.state, by_number)
        if not self.state.active:
            self.stop = self.state.stop_without_sources()

    def add(self, continuation: Continuation) -> None:
        """Append what a walk decided, unless it does not fit any more."""
        for name, usage in continuation.usage.items():
            self.spend(name, usage)
        self.drop(continuation.dropped)
        if self.stop is not None:
            return
        self._append(continuation)
        if continuation.ends:
            self.stop = StopReason.END
        elif continuation.is_full:
            self.stop = StopReason.LENGTH

    def _append(self, continuation: Continuation) -> None:
        state = self.state
        counts = dict(zip(self.names, state.num_tokens or [0] * len(self.names), strict=True))
        self.state = replace(
            state,
            data=state.data + continuation.data,
            text=state.text + whole_characters(state.beginning + continuation.data),
            position=continuation.position,
            num_tokens=tuple({**counts, **continuation.num_tokens}.values()),
        )
        if continuation.data or continuation.ends:
            self.continuations.append(continuation)


def commit(step: MixtureStep) -> tuple[MixtureState, Step]:
    """Show what may be shown of a step that is over, and record it."""
    segment = step.state.text[len(step.before.text) :]
    sources = tuple(step.names[k] for k in step.before.active)
    candidates = (_candidate(step, segment, sources),) if step.continuations else ()
    record = Step(
        index=0,
        text="",
        segment=segment,
        sources=sources,
        candidates=candidates,
        winner=0 if candidates and (segment or candidates[0].ends) else None,
        ends=False,
        log_end=None,
        withdrawn=tuple(
            SkippedSource(n, step.stuck) for n in sources if step.stuck and n not in step.dropped
        ),
        dropped=tuple(SkippedSource(name, str(error)) for name, error in step.dropped.items()),
        usage=tuple(step.usage.get(name, Usage()) for name in sources),
        seconds=0.0,
        zeros=_zeros(step, sources),
    )
    return finish_step(step.state, record, step.stop)


def _zeros(step: MixtureStep, sources: Sequence[str]) -> tuple[SkippedSource, ...]:
    """Which sources excluded what others found likeliest, in any walk."""
    said = {name: reason for walk in step.continuations for name, reason in walk.zeros.items()}
    return tuple(SkippedSource(name, said[name]) for name in sources if name in said)


def _candidate(step: MixtureStep, segment: str, sources: Sequence[str]) -> Candidate:
    """What the step's walks decided together; who is not in all of them has no log-likelihood."""
    walks = step.continuations
    log_probs = [sum(walk.log_probs.get(name, math.nan) for walk in walks) for name in sources]
    cost = -sum(walk.log_mixture for walk in walks)
    counts = [
        dict(zip(step.names, each.num_tokens, strict=False)) for each in (step.before, step.state)
    ]
    return Candidate(
        segment,
        walks[-1].ends,
        tuple(name for name in sources if all(name in walk.favoured for walk in walks)),
        None if all(map(math.isnan, log_probs)) else tuple(log_probs),
        tuple(counts[1].get(name, 0) - counts[0].get(name, 0) for name in sources),
        None if math.isnan(cost) else cost,
    )
