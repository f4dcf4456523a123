"""The end of a step: the winner becomes part of the text, and what it taught part of the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coolfusion.backends.source import Source
from coolfusion.decoding.commit import emit
from coolfusion.decoding.segments.contest import SegmentStep
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.rerankers import Tally
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_weights import hedged, normalized, uniform
from coolfusion.errors import ContextLengthError
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.types import SkippedSource, Step, StopReason


def commit(
    sources: Sequence[Source], recipe: Recipe, state: State, turn: SegmentStep
) -> tuple[State, Step]:
    """Append the turn's winner to the state, or say why there is none."""
    active = tuple(k for k in state.active if sources[k].name not in turn.dropped)
    failed = any(not isinstance(error, ContextLengthError) for error in turn.dropped.values())
    state = replace(state, active=active, any_failed=state.any_failed or failed)
    state = _learn(state, [source.name for source in sources], turn, recipe.hedge)
    winner = turn.candidates[turn.winner] if turn.winner is not None else None
    segment, stop = "", None
    if not active:
        stop = StopReason.SOURCES_FAILED if state.any_failed else StopReason.CONTEXT_LENGTH
    elif winner is None:
        stop = StopReason.NO_DRAFT
    else:
        segment, encoded = _fit(sources, state, winner.text)
        state = replace(state, text=state.text + segment, encoded=encoded)
        stop = _limit(state, complete=segment == winner.text)
        if winner.ends and segment == winner.text:
            stop = StopReason.END
    shown = emit(
        state.text, state.num_shown, len(segment), state.request.stop, final=stop is not None
    )
    if shown.stop_string is not None:
        stop = StopReason.STOP_STRING
    step = Step(
        index=state.num_steps,
        text=state.text[state.num_shown : shown.end],
        segment=segment,
        sources=turn.sources,
        candidates=tuple(turn.candidates),
        winner=turn.winner if segment or (winner and winner.ends) else None,
        ends=stop is StopReason.END,
        log_end=turn.log_end,
        withdrawn=turn.withdrawn,
        dropped=tuple(SkippedSource(name, str(error)) for name, error in turn.dropped.items()),
        usage=turn.usage,
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


def _fit(sources: Sequence[Source], state: State, text: str) -> tuple[str, tuple[Canonical, ...]]:
    """As much of ``text`` as keeps every source within ``max_new_tokens``, and its encodings."""
    for end in range(len(text), -1, -1):
        encoded = tuple(
            extend(old, text[:end], source.tokenizer) if k in state.active else old
            for k, (old, source) in enumerate(zip(state.encoded, sources, strict=True))
        )
        if max(len(encoded[k].ids) for k in state.active) <= state.request.max_new_tokens:
            return text[:end], encoded
    return "", state.encoded


def _limit(state: State, *, complete: bool) -> StopReason | None:
    longest = max(len(state.encoded[k].ids) for k in state.active)
    if not complete or longest >= state.request.max_new_tokens:
        return StopReason.LENGTH
    return None


def _learn(state: State, names: Sequence[str], turn: SegmentStep, eta: float) -> State:
    """Count a contest, and note what its judges said of the segment that won."""
    if not turn.scores:
        return state
    state = replace(
        state,
        num_contests=state.num_contests + 1,
        num_scored=state.num_scored + sum(each.usage.num_scored for each in turn.scores.values()),
    )
    segment = "" if turn.winner is None else turn.candidates[turn.winner].text
    if turn.winner is None or not segment:
        return state
    tallies = list(state.tallies or [Tally() for _ in names])
    losses = [0.0] * len(names)
    for k, name in enumerate(names):
        if name in turn.scores:
            log_likelihood = turn.scores[name].log_likelihoods[turn.winner]
            num_tokens = turn.scores[name].num_tokens[turn.winner]
            tallies[k] = Tally(
                tallies[k].log_likelihood + log_likelihood, tallies[k].num_tokens + num_tokens
            )
            losses[k] = -log_likelihood / (len(segment.encode()) * math.log(2))
    log_weights = state.log_weights
    if eta:
        log_weights = hedged(log_weights or normalized(np.log(uniform(len(names)))), losses, eta)
    return replace(state, tallies=tuple(tallies), log_weights=log_weights)
