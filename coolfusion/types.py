"""The records that describe a response: candidates, steps and whole generations.

Positions in tuples are aligned: entry ``k`` of a per-source tuple belongs to
``sources[k]`` of the step that holds it. Log-quantities are natural logarithms (nats).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


class StopReason(str, Enum):
    """Why a response is over; ``sentence`` is the reason in words."""

    END = "end"
    LENGTH = "length"
    STOP_STRING = "stop_string"
    CONTEXT_LENGTH = "context_length"
    NO_DRAFT = "no_draft"
    SOURCES_FAILED = "sources_failed"
    INTERRUPTED = "interrupted"

    @property
    def sentence(self) -> str:
        """The reason as one sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    StopReason.END: "The sources ended the text.",
    StopReason.LENGTH: "The limit of new tokens was reached.",
    StopReason.STOP_STRING: "A stop string appeared.",
    StopReason.CONTEXT_LENGTH: "No source has room left in its context window.",
    StopReason.NO_DRAFT: "No source could continue the text.",
    StopReason.SOURCES_FAILED: "Every source failed.",
    StopReason.INTERRUPTED: "The caller stopped the response.",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of one source. All counts are tokens, except ``num_passes``.

    ``num_drafted`` and ``num_scored`` are what the algorithm requested. ``num_forwarded`` and
    ``num_passes`` are what the model computed, which is less with a cache.
    """

    num_drafted: int = 0
    num_scored: int = 0
    num_forwarded: int = 0
    num_passes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.num_drafted + other.num_drafted,
            self.num_scored + other.num_scored,
            self.num_forwarded + other.num_forwarded,
            self.num_passes + other.num_passes,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One distinct segment of a step.

    ``log_likelihoods`` (nats) and ``num_tokens`` have one entry per source of the step. They are
    None if the candidates were not scored. ``cost`` is the reranker's, lower is better.
    """

    text: str
    ends: bool
    drafters: tuple[str, ...]
    log_likelihoods: tuple[float, ...] | None = None
    num_tokens: tuple[int, ...] | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class SkippedSource:
    """A source without a candidate in a step, and the reason."""

    source: str
    reason: str


# Why a source offers nothing without anything being wrong with it.
NO_ROOM: Final = "no complete character fits into what room is left"
END_REFUSED: Final = "it wanted to end the text, the sources together did not"
NO_TEXT: Final = "it drew bytes that are not UTF-8"
ORDINARY: Final = (NO_ROOM, END_REFUSED, NO_TEXT)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the fusion loop.

    ``segment`` is the committed text, ``text`` the text that may be shown now. They differ only
    while a stop string may be forming. The texts of all steps join to the response. ``winner``
    indexes ``candidates``; None: nothing was committed. ``log_end`` has, per source, the
    log-probability (nats) that the text ends here; None if it was not computed. ``zeros`` say of
    sources that gave something probability 0, and what followed for their vote.
    """

    index: int
    text: str
    segment: str
    sources: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    winner: int | None
    ends: bool
    log_end: tuple[float, ...] | None
    withdrawn: tuple[SkippedSource, ...]
    dropped: tuple[SkippedSource, ...]
    usage: tuple[Usage, ...]
    seconds: float
    zeros: tuple[SkippedSource, ...] = ()

    @property
    def drafters(self) -> tuple[str, ...]:
        """Names of the sources that drafted the committed segment."""
        return () if self.winner is None else self.candidates[self.winner].drafters

    @property
    def contested(self) -> bool:
        """Whether there were several distinct candidates to score."""
        return len(self.candidates) > 1


@dataclass(frozen=True, slots=True)
class Stats:
    """The cost of a response, in total and per source."""

    seconds: float
    num_steps: int
    num_contested: int
    usage: dict[str, Usage]
    wins: dict[str, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """A response, its steps, and why it stopped."""

    text: str
    stop_reason: StopReason
    stop_string: str | None
    sources: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def stop_sources(self) -> tuple[str, ...]:
        """The sources whose full context windows ended the response, the last that went on.

        Empty for every other stop reason. Sources that left earlier are in ``warnings``.
        """
        if self.stop_reason is not StopReason.CONTEXT_LENGTH or not self.steps:
            return ()
        return tuple(gone.source for gone in self.steps[-1].dropped)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each source that was dropped, then for each that was silenced.

        A source is silenced in a step where it offers nothing. To want the end, to have no room and
        to draw bytes that are no text are no silence. It is silenced, too, where a probability of 0 takes its vote.
        """
        dropped = [
            f'Source "{gone.source}" was dropped at step {step.index}: {gone.reason}'
            for step in self.steps
            for gone in step.dropped
        ]
        return (*dropped, *_silences(self.steps))

    @property
    def stats(self) -> Stats:
        """Sums over the steps."""
        return summarize(self.sources, self.steps)


def _silences(steps: Sequence[Step]) -> list[str]:
    """A sentence for each source and kind of silence, which tells of the first step of it."""
    first: dict[tuple[str, str], tuple[int, str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for step in steps:
        silent = [each for each in step.withdrawn if each.reason not in ORDINARY]
        kinds = {"offered nothing": silent, "excluded something": step.zeros}
        for kind, skipped in kinds.items():
            for each in skipped:
                key = each.source, kind
                first.setdefault(key, (step.index, each.reason))
                counts[key] = counts.get(key, 0) + 1
    return [
        f'Source "{source}" {kind} at step {index}'
        + (f" and {counts[source, kind] - 1} more" if counts[source, kind] > 1 else "")
        + f": {reason}"
        for (source, kind), (index, reason) in first.items()
    ]


def summarize(sources: Sequence[str], steps: Sequence[Step]) -> Stats:
    """Sums of the costs of ``steps`` by source; every drafter of a winner gets a win."""
    usage = {name: Usage() for name in sources}
    wins = dict.fromkeys(sources, 0)
    for step in steps:
        for name, spent in zip(step.sources, step.usage, strict=True):
            usage[name] += spent
        for name in step.drafters:
            wins[name] += 1
    return Stats(
        seconds=sum(step.seconds for step in steps),
        num_steps=len(steps),
        num_contested=sum(step.contested for step in steps),
        usage=usage,
        wins=wins,
    )
