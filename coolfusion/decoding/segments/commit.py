"""The end of a step: the winner becomes part of the text, and what it taught part of the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coolfusion.backends.source import Source
from coolfusion.decoding.commit import finish_step
from coolfusion.decoding.segments.contest import SegmentStep
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.rerankers import Tally
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_weights import hedged, log_normalized
from coolfusion.decoding.state import without_sources
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.types import SkippedSource, Step, StopReason


def commit(
    sources: Sequence[Source], recipe: Recipe, state: State, step: SegmentStep
) -> tuple[State, Step]:
    """Append the step's winner to the state, or say why there is none."""
    names = [source.name for source in sources]
    state = without_sources(state, {names.index(n): error for n, error in step.dropped.items()})
    state = _learn(state, names, step, recipe.hedge)
    winner = step.candidates[step.winner] if step.winner is not None else None
    segment, stop = "", None
    if not state.active:
        stop = state.stop_without_sources()
    elif winner is None:
        stop = StopReason.NO_DRAFT
    else:
        segment, encoded = _fit(sources, state, winner.text)
        state = replace(state, text=state.text + segment, encoded=encoded)
        stop = _limit(state, complete=segment == winner.text)
        if winner.ends and segment == winner.text:
            stop = StopReason.END
    has_won = segment or (winner is not None and winner.ends)
    return finish_step(state, _record(step, segment, step.winner if has_won else None), stop)


def _record(step: SegmentStep, segment: str, winner: int | None) -> Step:
    """What is kept of a step; its number and what it shows are filled in at its end."""
    return Step(
        index=0,
        text="",
        segment=segment,
        sources=step.sources,
        candidates=tuple(step.candidates),
        winner=winner,
        ends=False,
        log_end=step.log_end,
        withdrawn=step.withdrawn,
        dropped=tuple(SkippedSource(name, str(error)) for name, error in step.dropped.items()),
        usage=step.usage,
        seconds=0.0,
        zeros=tuple(SkippedSource(n, step.zeros[n]) for n in step.sources if n in step.zeros),
    )


def _fit(sources: Sequence[Source], state: State, text: str) -> tuple[str, tuple[Canonical, ...]]:
    """As much of ``text`` as fits into ``max_new_tokens`` of the source that needs fewest.

    Where a character leaps over the limit, it is kept: no source may be left short of it. The
    encodings come back too.
    """
    limit, longer = state.request.max_new_tokens, ("", state.encoded)
    for end in range(len(text), -1, -1):
        # Those of sources that take no part any more, too: their tokenizers still ratify cuts.
        encoded = tuple(
            extend(old, text[:end], source.tokenizer)
            for old, source in zip(state.encoded, sources, strict=True)
        )
        fewest = min(len(encoded[k].ids) for k in state.active)
        if fewest == limit or (fewest < limit and end == len(text)):
            return text[:end], encoded
        if fewest < limit:
            return longer
        longer = text[:end], encoded
    return "", state.encoded


def _limit(state: State, *, complete: bool) -> StopReason | None:
    lengths = [state.num_tokens[k] for k in state.active]
    request = state.request
    is_long = min(lengths) >= request.max_new_tokens or max(lengths) >= request.most_tokens
    return StopReason.LENGTH if is_long or not complete else None


def _learn(state: State, names: Sequence[str], step: SegmentStep, eta: float) -> State:
    """Count a contest, and note what its judges said of the segment that won."""
    if not step.scores:
        return state
    state = replace(
        state,
        num_contests=state.num_contests + 1,
        num_scored=state.num_scored + sum(each.usage.num_scored for each in step.scores.values()),
    )
    segment = "" if step.winner is None else step.candidates[step.winner].text
    if step.winner is None or not segment:
        return state
    tallies = list(state.tallies or [Tally() for _ in names])
    losses = [0.0] * len(names)
    for k, name in enumerate(names):
        if name in step.scores:
            log_likelihood = step.scores[name].log_likelihoods[step.winner]
            num_tokens = step.scores[name].num_tokens[step.winner]
            if math.isfinite(log_likelihood):  # no mean could be taken with a zero in it
                tallies[k] = Tally(
                    tallies[k].log_likelihood + log_likelihood, tallies[k].num_tokens + num_tokens
                )
            losses[k] = -log_likelihood / (len(segment.encode()) * math.log(2))
    log_weights = state.log_weights
    if eta:
        log_weights = hedged(log_weights or log_normalized(np.zeros(len(names))), losses, eta)
    return replace(state, tallies=tuple(tallies), log_weights=log_weights)
