"""The fusion loop: draft, merge, score, rerank, commit (arXiv 2407.19807, section 3).

States are immutable and a step is a pure function of a state. A response can be branched, resumed
or decoded beside others, and its text stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, final

from coolfusion.backends.source import Source, check_byte_faithful, encoded_prompts
from coolfusion.checks.arguments import checked
from coolfusion.decoding.commit import interrupted
from coolfusion.decoding.decoder import Decoder
from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import gather
from coolfusion.decoding.segments.commit import commit
from coolfusion.decoding.segments.contest import SegmentStep, leads, merge, rerank
from coolfusion.decoding.segments.drafting import Draft, PartialDraft, draft
from coolfusion.decoding.segments.gates import LeadDraft
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.scoring import ByteScorer, Scorer, Segment, score
from coolfusion.decoding.segments.speculation import Speculation, Speculator
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_view import SourceView
from coolfusion.decoding.source_weights import on_simplex, weigh_by_prompt
from coolfusion.errors import SourceError, UsageError
from coolfusion.tokenization.alignment import ratified_after
from coolfusion.tokenization.canonical import Canonical, lengthened
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Step

Value = TypeVar("Value")

DEFAULT_SPECULATION = Speculation()


@final
class SegmentDecoder(Decoder[State]):
    """Fuses ``sources`` by ``recipe``.

    ``speculation`` (None: none) lets sources guess ahead for one another. It changes what a
    response costs and nothing else.
    """

    @checked
    def __init__(
        self,
        sources: Sequence[Source],
        recipe: Recipe | None = None,
        *,
        speculation: Speculation | None = DEFAULT_SPECULATION,
    ) -> None:
        super().__init__(sources)
        self.recipe = recipe or Recipe()
        self._index = {source.name: k for k, source in enumerate(self.sources)}
        self._scorers: list[Scorer] = [score] * len(self.sources)
        if self.recipe.scores == "bytes":
            check_byte_faithful(sources, "scored by bytes")
            self._scorers = [ByteScorer(source) for source in self.sources]
        self._speculator = None
        if speculation is not None:
            self._speculator = Speculator(self.sources, self._caches, self.recipe, speculation)

    @checked
    def start(self, prompt: Prompt, request: Request | None = None) -> State:
        """A state with no text yet.

        Raises ``PromptError`` for a prompt that some source cannot take, and ``UsageError`` for
        a greedy request where sources are to draft several times.
        """
        request = request or Request()
        if self.recipe.num_samples > 1 and request.sampling.is_greedy:
            raise UsageError(
                f"{self.recipe.num_samples} drafts of one source at temperature 0 would all be the "
                "same. Set a temperature."
            )
        return State(
            request=request,
            prompt=prompt,
            prompts=encoded_prompts(self.sources, prompt),
            active=tuple(range(len(self.sources))),
            sequence_id=next(self._sequence_ids),
            encoded=tuple(Canonical() for _ in self.sources),
        )

    async def step_async(self, state: State, num_texts: int = 1) -> tuple[State, Step]:
        """One step of the fusion loop; ``num_texts`` responses share forward passes."""
        state, step = await self.draft(state, num_texts)
        merge(step, self.recipe)
        await self.score(state, step)
        rerank(step, self.recipe)
        return self.commit(state, step)

    async def draft(self, state: State, num_texts: int = 1) -> tuple[State, SegmentStep]:
        """Let the active sources draft, or the lead alone where a gate or a budget says so.

        The state comes back with the prior weights, where these are first needed.
        """
        step = SegmentStep(tuple(self.sources[k].name for k in state.active))
        if self._speculator is not None and state.sequence_id is not None:
            self._speculator.follow(state)
        state = await self._weigh(state, step)
        if state.log_weights:
            step.weights = self._by_name(on_simplex(state.log_weights).tolist())
        if state.tallies:
            step.tallies = self._by_name(state.tallies)
        step.is_uncontested = await self._lead_alone(state, step, num_texts)
        if not step.is_uncontested:
            await self._guess(state, step, num_texts)
            await self._draft(state, step, step.sources, self.recipe.num_samples)
        return state, step

    async def score(self, state: State, step: SegmentStep) -> None:
        """Let every source with a draft score the candidates, if there is a contest."""
        if step.is_contest:
            await self.score_always(state, step)

    async def score_always(self, state: State, step: SegmentStep) -> None:
        """Let every source with a draft score the candidates, even a single one."""
        views = [
            self._view(state, name)
            for name in step.sources
            if name in step.drafts and name not in step.dropped
        ]
        segments = [Segment(each.text, each.ends) for each in step.candidates]
        scored = await gather([self._scorers[view.index](view, segments) for view in views])
        for view, scores in zip(views, scored, strict=True):
            if isinstance(scores, SourceError):
                self._drop(state, step, view.name, scores)
            else:
                step.scores[view.name] = scores

    def commit(self, state: State, step: SegmentStep) -> tuple[State, Step]:
        """The state after the step's winner, and the record of the step."""
        return commit(self.sources, self.recipe, state, step)

    async def _weigh(self, state: State, step: SegmentStep) -> State:
        """Weigh the sources by how well they predict the prompt, once per response."""
        prior = self.recipe.prior
        if prior is None or state.log_weights or len(state.active) < 2:
            return state
        views = [self._view(state, name) for name in step.sources]
        log_weights, readings = await weigh_by_prompt(prior, views, len(self.sources))
        for index, reading in readings.items():
            name = self.sources[index].name
            if isinstance(reading, SourceError):
                self._drop(state, step, name, reading)
            else:
                step.spend(name, reading.usage)
        return replace(state, log_weights=log_weights)

    async def _lead_alone(self, state: State, step: SegmentStep, num_texts: int) -> bool:
        """Let the lead source draft first, if a gate or a spent budget may let it stand alone.

        Where it does, no other source drafts. With the budget spent, a lead that has nothing to
        offer is followed by the next.
        """
        budget, gate = self.recipe.budget, self.recipe.gate
        is_spent = budget is not None and budget.is_spent(state.num_contests, state.num_scored)
        in_order = leads(step, self.recipe)
        if len(in_order) < 2 or (gate is None and not is_spent):
            return False
        for name in in_order if is_spent else in_order[:1]:
            if is_spent:
                await self._guess(replace(state, active=(self._index[name],)), step, num_texts)
            await self._draft(state, step, [name], 1)
            merge(step, self.recipe)
            if step.candidates:
                break
        if is_spent or gate is None or not step.candidates:
            return is_spent
        offered = Segment(step.candidates[0].text, step.candidates[0].ends)
        lead = await self._own_score(state, step, name, offered)
        return lead is not None and gate(lead)

    async def _own_score(
        self, state: State, step: SegmentStep, name: str, segment: Segment
    ) -> LeadDraft | None:
        """What a source thinks of its own draft; None if it fails.

        It is known from drafting, and counts as no contest.
        """
        (scores,) = await gather([score(self._view(state, name), [segment])])
        if isinstance(scores, SourceError):
            self._drop(state, step, name, scores)
            return None
        step.spend(name, replace(scores.usage, num_scored=0))
        (log_likelihood,), (num_tokens,) = scores.log_likelihoods, scores.num_tokens
        return LeadDraft(segment.text, segment.ends, log_likelihood, num_tokens)

    async def _guess(self, state: State, step: SegmentStep, num_texts: int) -> None:
        """Let the state's active sources guess ahead for one another."""
        if self._speculator is not None and state.sequence_id is not None:
            spent = await self._speculator.prepare(state, num_texts)
            for name, usage in spent.items():
                step.spend(name, usage)

    async def _draft(
        self, state: State, step: SegmentStep, names: Sequence[str], num_samples: int
    ) -> None:
        """Let the sources named draft until each has ``num_samples`` drafts."""
        wanted = [
            (name, sample)
            for name in names
            if name not in step.dropped
            for sample in range(name in step.drafts, num_samples)
        ]
        drafts = await gather([self._one_draft(state, *each) for each in wanted])
        for (name, sample), drafted in zip(wanted, drafts, strict=True):
            if isinstance(drafted, SourceError):
                self._drop(state, step, name, drafted)
            elif sample == 0:
                step.drafts[name] = drafted
            else:
                step.samples[name] = (*step.samples.get(name, ()), drafted)

    async def _one_draft(self, state: State, name: str, sample: int) -> Draft:
        request, view = state.request, self._view(state, name, sample)
        return await draft(
            view,
            self._cut,
            room=request.max_new_tokens - len(view.encoded.ids),
            max_tokens=request.max_segment_tokens
            or self.recipe.boundary.max_tokens
            or request.most_tokens,
            before=state.encoded,
            others_room=lambda text: self._room(state, text, besides=view.index),
        )

    def _room(self, state: State, text: str, *, besides: int) -> int:
        """How many tokens the response may take after ``text``, of any other active source."""
        lengths = [
            len(lengthened(state.encoded[k], text, self.sources[k].tokenizer).ids)
            for k in state.active
            if k != besides
        ]
        return state.request.max_new_tokens - min(lengths) if lengths else -1

    def _cut(self, partial: PartialDraft) -> int | None:
        """The first position where a draft may be handed over, if there is one yet."""
        tokenizers = [source.tokenizer for source in self.sources]
        cuts = ratified_after(partial.before, partial.text, self.recipe.boundary, tokenizers)
        return next(cuts, None)

    def _view(self, state: State, name: str, sample: int = 0) -> SourceView:
        index = self._index[name]
        return state.view(index, self.sources[index], sample)

    def _by_name(self, values: Sequence[Value]) -> Mapping[str, Value]:
        return dict(zip(self._index, values, strict=True))

    def _drop(self, state: State, step: SegmentStep, name: str, error: SourceError) -> None:
        """Go on without a source that failed, or raise its error where that is asked for."""
        if state.request.on_source_error == "raise":
            raise interrupted(state, tuple(self._index), error, name)
        step.dropped[name] = error
