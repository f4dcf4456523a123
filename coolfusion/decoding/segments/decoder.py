"""The fusion loop: draft, merge, score, rerank, commit (arXiv 2407.19807, section 3).

States are immutable and a step is a pure function of a state, so a response can be
branched, resumed or decoded beside others without changing what it says.

The turn of one step: sources draft, perhaps the lead alone, and score what they do not agree on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, final

from coolfusion.backends.source import (
    Source,
    check_byte_faithful,
    check_names,
    encoded_prompts,
)
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.decoder import Decoder, on_several_devices
from coolfusion.decoding.request import Request, sampling_of
from coolfusion.decoding.scheduler import Scheduler, Talk, hold, together
from coolfusion.decoding.segments import contest
from coolfusion.decoding.segments.commit import commit
from coolfusion.decoding.segments.contest import SegmentStep
from coolfusion.decoding.segments.drafting import DraftRequest, PartialDraft, draft
from coolfusion.decoding.segments.gates import LeadDraft
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.scoring import ByteScorer, Scorer, ScoreRequest, score
from coolfusion.decoding.segments.speculation import Speculation, Speculator
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_weights import on_simplex, read_prompt
from coolfusion.errors import SourceError, UsageError
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.tokenization.canonical import Canonical
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step, StopReason

Result = TypeVar("Result")

DEFAULT_SPECULATION = Speculation()


@final
class SegmentDecoder(Decoder[State]):
    """Fuses ``sources`` by ``recipe``.

    What it keeps of responses, here and in its sources, only saves time: ``speculation``
    (None: none) changes what they cost and nothing else.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        recipe: Recipe | None = None,
        *,
        speculation: Speculation | None = DEFAULT_SPECULATION,
    ) -> None:
        check_names([source.name for source in sources])
        self.sources = tuple(sources)
        self.recipe = recipe or Recipe()
        if self.recipe.scores == "bytes":
            check_byte_faithful(sources, "scored by bytes")
        self._sequence_ids = itertools.count()
        self._caches = [AnswerCache(source.backend) for source in self.sources]
        self._concurrent = on_several_devices(self.sources)
        speculator = None
        if speculation is not None:
            speculator = Speculator(self.sources, self._caches, self.recipe, speculation)
        self.turns = Turns(self.sources, self.recipe, speculator)

    def start(self, prompt: Prompt, request: Request | None = None) -> State:
        """A state with nothing said yet.

        Raises ``PromptError`` for a prompt that some source cannot take, and ``UsageError`` for
        a greedy request where sources are to draft several times.
        """
        request = request or Request()
        if self.recipe.num_samples > 1 and request.sampling.is_greedy:
            raise UsageError(
                f"{self.recipe.num_samples} drafts of one source at temperature 0 would all be the "
                "same. Set a temperature."
            )
        prompts = encoded_prompts(self.sources, prompt)
        nothing = tuple(Canonical() for _ in self.sources)
        everyone = tuple(range(len(self.sources)))
        return State(request, prompt, prompts, nothing, everyone, next(self._sequence_ids))

    def scheduler(self) -> Scheduler[int, tuple[State, Step]]:
        """Scheduler in which what is known of a text already is not asked again."""
        return Scheduler(self._caches, concurrent=self._concurrent)

    def hold(self, talk: Talk[Result]) -> Result:
        """Hold a conversation with the sources to its end."""
        return hold(talk, self._caches)

    def stepping(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Step]]:
        """One step as a conversation with the sources; ``num_texts`` share their passes."""
        state, turn = yield from self.turns.take(state, num_texts)
        return self.commit(state, turn)

    def commit(self, state: State, turn: SegmentStep) -> tuple[State, Step]:
        """The state after the turn's winner, and the step that led to it."""
        return commit(self.sources, self.recipe, state, turn)

    def branch(self, state: State) -> State:
        """The same response, with a place of its own in whatever is remembered of responses."""
        return (
            state
            if state.sequence_id is None
            else replace(state, sequence_id=next(self._sequence_ids))
        )


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

    def take(self, state: State, num_texts: int = 1) -> Talk[tuple[State, SegmentStep]]:
        """A step up to its winner, which is not committed yet.

        The state comes back with the prior weights, where these are first needed.
        """
        turn = SegmentStep(tuple(self._sources[k].name for k in state.active))
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

    def judge(self, state: State, turn: SegmentStep) -> Talk[None]:
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

    def _weigh(self, state: State, turn: SegmentStep) -> Talk[State]:
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
                    state.sequence_id,
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

    def _lead_alone(self, state: State, turn: SegmentStep, num_texts: int) -> Talk[bool]:
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

    def _guess(self, state: State, turn: SegmentStep, num_texts: int) -> Talk[None]:
        """Let the state's active sources guess ahead for one another."""
        if self._speculator is not None and state.sequence_id is not None:
            spent = yield from self._speculator.prepare(state, num_texts)
            for name, usage in spent.items():
                turn.spend(name, usage)

    def _draft(
        self, state: State, turn: SegmentStep, names: Sequence[str], num_samples: int
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

    def _cut(self, partial: PartialDraft) -> int | None:
        """The first position where the text drafted so far may be handed over."""
        tokenizers = [source.tokenizer for source in self._sources]
        context = partial.request.context
        return next(ratified_cuts(partial.text, self._recipe.boundary, tokenizers, context), None)

    def _draft_request(self, state: State, k: int, sample: int) -> DraftRequest:
        request = state.request
        return DraftRequest(
            prefix=state.prompts[k] + state.encoded[k].ids,
            context=state.text[-CONTEXT:],
            sampling=sampling_of(request, self._sources[k].name, sample),
            max_tokens=request.max_segment_tokens or self._recipe.boundary.max_tokens,
            room=request.max_new_tokens - len(state.encoded[k].ids),
            sequence_id=state.sequence_id,
        )

    def _score_request(self, state: State, turn: SegmentStep, k: int) -> ScoreRequest:
        return ScoreRequest(
            state.prompts[k],
            state.encoded[k],
            tuple(candidate.text for candidate in turn.candidates),
            tuple(candidate.ends for candidate in turn.candidates),
            sampling_of(state.request, self._sources[k].name),
            state.sequence_id,
        )

    def _drop(self, state: State, turn: SegmentStep, source: Source, error: SourceError) -> None:
        if state.request.on_source_error == "raise":
            names = tuple(each.name for each in self._sources)
            error.generation = Generation(state.text, StopReason.INTERRUPTED, None, names, ())
            raise error
        turn.dropped[source.name] = error
