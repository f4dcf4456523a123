"""The turn of one step: sources draft, perhaps the lead alone, and score what they do not agree on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import final

from coolfusion import contest
from coolfusion.asking import Talk, together
from coolfusion.backends.source import Source
from coolfusion.byte_scoring import ByteScorer
from coolfusion.contest import Turn
from coolfusion.drafting import DraftRequest, Pen, draft
from coolfusion.errors import SourceError
from coolfusion.gates import LeadDraft
from coolfusion.recipe import Recipe
from coolfusion.scoring import Scorer, ScoreRequest, score
from coolfusion.speculation import Speculator
from coolfusion.state import State, sampling_of
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.types import Generation, StopReason
from coolfusion.weights import on_simplex, read_prompt

CONTEXT = 256  # characters of recent text that drafting may look back on


@final
class Turns:
    """Holds turns with ``sources`` by ``recipe``; the ``speculator`` lets them guess ahead."""

    def __init__(
        self, sources: Sequence[Source], recipe: Recipe, speculator: Speculator | None
    ) -> None:
        self._sources = sources
        self._recipe = recipe
        self._speculator = speculator
        self._number = {source.name: k for k, source in enumerate(sources)}
        self._scorers: list[Scorer] = [score] * len(sources)
        if recipe.scores == "bytes":
            self._scorers = [ByteScorer(source) for source in sources]

    def take(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Turn]]:
        """A step up to its winner, which is not committed yet.

        The state comes back with the prior weights, where these are first needed.
        """
        turn = Turn(tuple(self._sources[k].name for k in state.active))
        if self._recipe.prior is not None and not state.log_weights and len(state.active) > 1:
            state = yield from self._weigh(state, turn)
        if state.log_weights:
            weights = on_simplex(state.log_weights)
            turn.weights = {s.name: float(w) for s, w in zip(self._sources, weights, strict=True)}
        if state.tallies:
            turn.tallies = {s.name: t for s, t in zip(self._sources, state.tallies, strict=True)}
        is_alone = yield from self._lead_alone(state, turn, num_texts)
        if not is_alone:
            yield from self._guess(state, turn, num_texts)
            yield from self._draft(state, turn, turn.sources, self._recipe.num_samples)
            contest.merge(turn, self._recipe)
            if turn.is_contest:
                yield from self.judge(state, turn)
        contest.decide(turn, self._recipe)
        return state, turn

    def judge(self, state: State, turn: Turn) -> Talk[None]:
        """Let every source that is left score the candidates."""
        names = [n for n in turn.sources if n in turn.drafts and n not in turn.dropped]
        judges = [self._number[name] for name in names]
        scored = yield from together(
            [
                self._scorers[k](k, self._sources[k], self._score_request(state, turn, k))
                for k in judges
            ]
        )
        for k, scores in zip(judges, scored, strict=True):
            if isinstance(scores, SourceError):
                self._drop(state, turn, self._sources[k], scores)
            else:
                turn.scores[self._sources[k].name] = scores

    def _weigh(self, state: State, turn: Turn) -> Talk[State]:
        """Weigh the sources by how well they predict the prompt."""
        prior = self._recipe.prior
        if prior is None:
            return state
        readings = yield from together(
            [
                read_prompt(
                    k,
                    self._sources[k],
                    state.prompts[k],
                    sampling_of(state.request, self._sources[k].name),
                    state.lane,
                )
                for k in state.active
            ]
        )
        bits = [math.nan] * len(self._sources)
        for k, reading in zip(state.active, readings, strict=True):
            if isinstance(reading, SourceError):
                self._drop(state, turn, self._sources[k], reading)
            else:
                bits[k] = reading.bits_per_byte
                turn.spend(self._sources[k].name, reading.usage)
        return replace(state, log_weights=prior.log_weights(bits))

    def _lead_alone(self, state: State, turn: Turn, num_texts: int) -> Talk[bool]:
        """Let the lead source draft first, if a gate or a spent budget may let it stand alone.

        Where it does, nobody else drafts. With the budget spent, a lead that has nothing to
        offer is followed by the next.
        """
        budget, gate = self._recipe.budget, self._recipe.gate
        is_spent = budget is not None and budget.is_spent(state.num_contests, state.num_scored)
        leads = contest.leads(turn, self._recipe)
        if len(leads) < 2 or (gate is None and not is_spent):
            return False
        for name in leads if is_spent else leads[:1]:
            k = self._number[name]
            if is_spent:
                yield from self._guess(replace(state, active=(k,)), turn, num_texts)
            yield from self._draft(state, turn, [name], 1)
            contest.merge(turn, self._recipe)
            if turn.candidates:
                break
        if is_spent or gate is None or not turn.candidates:
            return is_spent
        (scores,) = yield from together(
            [score(k, self._sources[k], self._score_request(state, turn, k))]
        )
        if isinstance(scores, SourceError):
            self._drop(state, turn, self._sources[k], scores)
            return False
        # What it thinks of its own draft is known from drafting, and is no contest.
        turn.spend(name, replace(scores.usage, num_scored=0))
        (log_likelihood,), (num_tokens,) = scores.log_likelihoods, scores.num_tokens
        offered = turn.candidates[0]
        return gate(LeadDraft(offered.text, offered.ends, log_likelihood, num_tokens))

    def _guess(self, state: State, turn: Turn, num_texts: int) -> Talk[None]:
        """Let the state's active sources guess ahead for one another."""
        if self._speculator is not None and state.lane is not None:
            spent = yield from self._speculator.prepare(state, num_texts)
            for name, usage in spent.items():
                turn.spend(name, usage)

    def _draft(
        self, state: State, turn: Turn, names: Sequence[str], num_samples: int
    ) -> Talk[None]:
        """Let the sources named draft until each has ``num_samples`` drafts."""
        wanted = [
            (name, sample)
            for name in names
            if name not in turn.dropped
            for sample in range(name in turn.drafts, num_samples)
        ]
        drafts = yield from together(
            [
                draft(
                    self._number[name],
                    self._sources[self._number[name]],
                    self._draft_request(state, self._number[name], sample),
                    self._cut,
                )
                for name, sample in wanted
            ]
        )
        for (name, sample), drafted in zip(wanted, drafts, strict=True):
            if isinstance(drafted, SourceError):
                self._drop(state, turn, self._sources[self._number[name]], drafted)
            elif sample == 0:
                turn.drafts[name] = drafted
            else:
                turn.samples[name] = (*turn.samples.get(name, ()), drafted)

    def _cut(self, pen: Pen) -> int | None:
        """The first position where the text drafted so far may be handed over."""
        tokenizers = [source.tokenizer for source in self._sources]
        context = pen.request.context
        return next(ratified_cuts(pen.text, self._recipe.boundary, tokenizers, context), None)

    def _draft_request(self, state: State, k: int, sample: int) -> DraftRequest:
        request = state.request
        return DraftRequest(
            prefix=state.prompts[k] + state.encoded[k].ids,
            context=state.text[-CONTEXT:],
            sampling=sampling_of(request, self._sources[k].name, sample),
            max_tokens=request.max_segment_tokens or self._recipe.boundary.max_tokens,
            room=request.max_new_tokens - len(state.encoded[k].ids),
            lane=state.lane,
        )

    def _score_request(self, state: State, turn: Turn, k: int) -> ScoreRequest:
        return ScoreRequest(
            state.prompts[k],
            state.encoded[k],
            tuple(candidate.text for candidate in turn.candidates),
            tuple(candidate.ends for candidate in turn.candidates),
            sampling_of(state.request, self._sources[k].name),
            state.lane,
        )

    def _drop(self, state: State, turn: Turn, source: Source, error: SourceError) -> None:
        if state.request.on_source_error == "raise":
            names = tuple(each.name for each in self._sources)
            error.generation = Generation(state.text, StopReason.INTERRUPTED, None, names, ())
            raise error
        turn.dropped[source.name] = error
