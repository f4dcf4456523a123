"""The fusion loop: draft, merge, score, rerank, commit (arXiv 2407.19807, section 3).

States are immutable and a step is a pure function of a state, so a response can be
branched, resumed or decoded beside others without changing what it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import final

from coolfusion import contest
from coolfusion.alignment import ratified_cuts
from coolfusion.asking import Talk, together
from coolfusion.batching import MAX_ROWS, MAX_TOKENS, Limits, decode_each, timed
from coolfusion.canonical import Canonical, extend
from coolfusion.contest import Turn
from coolfusion.drafting import DraftRequest, Pen, draft
from coolfusion.emission import emit
from coolfusion.errors import ContextLengthError, PromptError, SourceError
from coolfusion.recall import Recall
from coolfusion.recipe import Recipe, Request
from coolfusion.rounds import Rounds
from coolfusion.scoring import ScoreRequest, score
from coolfusion.sources import Source, check_names
from coolfusion.speculation import Speculation, Speculator
from coolfusion.state import State, sampling_of
from coolfusion.tokenizer import Prompt
from coolfusion.types import Absence, Generation, Step, StopReason

DEFAULT_SPECULATION = Speculation()
CONTEXT = 256  # characters of recent text that drafting and stop strings may look back on


@final
class Decoder:
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
        self._lanes = itertools.count()
        self._recalls = [Recall(source.backend) for source in self.sources]
        self._speculator = None
        if speculation is not None:
            self._speculator = Speculator(self.sources, self._recalls, self.recipe, speculation)

    def start(self, prompt: Prompt, request: Request | None = None) -> State:
        """A state with nothing said yet. Raises ``PromptError`` for a prompt no source can take."""
        prompts = tuple(source.tokenizer.encode_prompt(prompt) for source in self.sources)
        for source, ids in zip(self.sources, prompts, strict=True):
            limit = source.backend.context_length
            if not ids:
                raise PromptError(
                    f'The prompt has no tokens for source "{source.name}". Give some text.'
                )
            if limit is not None and len(ids) >= limit:
                raise PromptError(
                    f'The prompt has {len(ids)} tokens for source "{source.name}", whose context window '
                    f"holds {limit}. Shorten the prompt or leave that source out."
                )
        nothing = tuple(Canonical() for _ in self.sources)
        everyone = tuple(range(len(self.sources)))
        return State(request or Request(), prompt, prompts, nothing, everyone, next(self._lanes))

    def step(self, state: State) -> tuple[State, Step]:
        """Commit one more segment, or stop. A stopped state cannot be stepped."""
        return self.step_batch([state])[0]

    def step_batch(self, states: Sequence[State]) -> list[tuple[State, Step]]:
        """Step several responses at once; every row's result is what ``step`` would give."""
        if any(state.stop_reason for state in states):
            raise ValueError("A stopped response cannot be stepped. Start a new one.")
        rounds = self.rounds()
        for row, state in enumerate(states):
            rounds.begin(row, self.stepping(state, len(states)))
        stepped: dict[int, tuple[State, Step]] = {}
        while len(stepped) < len(states):
            stepped.update((over.key, timed(over)) for over in rounds.turn())
        return [stepped[row] for row in range(len(states))]

    def stream(self, prompt: Prompt, request: Request | None = None) -> Iterator[Step]:
        """Steps of one response as they are committed; their texts join to the response."""
        state = self.start(prompt, request)
        while state.stop_reason is None:
            state, step = self.step(state)
            yield step

    def generate(self, prompt: Prompt, request: Request | None = None) -> Generation:
        """One whole response."""
        return self.generate_batch([prompt], request)[0]

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        request: Request | None = None,
        *,
        max_rows: int = MAX_ROWS,
        max_tokens: int = MAX_TOKENS,
    ) -> list[Generation]:
        """One response per prompt, decoded side by side within the limits of ``generate_each``."""
        results = dict(
            self.generate_each(prompts, request, max_rows=max_rows, max_tokens=max_tokens)
        )
        return [results[index] for index in range(len(prompts))]

    def generate_each(
        self,
        prompts: Iterable[Prompt],
        request: Request | None = None,
        *,
        max_rows: int = MAX_ROWS,
        max_tokens: int = MAX_TOKENS,
    ) -> Iterator[tuple[int, Generation]]:
        """(index, response) pairs in the order they finish; waiting prompts take freed rows.

        Up to ``max_rows`` responses are decoded side by side, fewer where their prompts and
        ``max_new_tokens`` together exceed ``max_tokens``.
        """
        return decode_each(self, prompts, request, Limits(max_rows, max_tokens))

    def finish(self, state: State, steps: Sequence[Step]) -> Generation:
        """The response that ``state`` and the ``steps`` that led to it make up."""
        return Generation(
            text="".join(step.text for step in steps),
            stop_reason=state.stop_reason or StopReason.INTERRUPTED,
            stop_string=state.stop_string,
            sources=tuple(source.name for source in self.sources),
            steps=tuple(steps),
        )

    def rounds(self) -> Rounds[int, tuple[State, Step]]:
        """What answers the questions that steps have for the sources."""
        return Rounds(self._recalls)

    def stepping(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Step]]:
        """One step as a conversation with the sources; ``num_texts`` share their passes."""
        turn = Turn(tuple(self.sources[k].name for k in state.active))
        if self._speculator is not None:
            turn.guessed = yield from self._speculator.prepare(state, num_texts)
        yield from self._draft(state, turn)
        contest.merge(turn, self.recipe)
        if turn.is_contest:
            yield from self._score(state, turn)
        contest.decide(turn, self.recipe)
        return self._commit(state, turn)

    def _draft(self, state: State, turn: Turn) -> Talk[None]:
        """Let every active source draft."""
        drafts = yield from together(
            [
                draft(k, self.sources[k], self._draft_request(state, k), self._cut)
                for k in state.active
            ]
        )
        for k, drafted in zip(state.active, drafts, strict=True):
            if isinstance(drafted, SourceError):
                self._drop(state, turn, self.sources[k], drafted)
            else:
                turn.drafts[self.sources[k].name] = drafted

    def _cut(self, pen: Pen) -> int | None:
        """The first position where the text drafted so far may be handed over."""
        tokenizers = [source.tokenizer for source in self.sources]
        context = pen.request.context
        return next(ratified_cuts(pen.text, self.recipe.boundary, tokenizers, context), None)

    def _draft_request(self, state: State, k: int) -> DraftRequest:
        request = state.request
        return DraftRequest(
            prefix=state.prompts[k] + state.encoded[k].ids,
            context=state.text[-CONTEXT:],
            sampling=sampling_of(request, self.sources[k].name),
            max_tokens=request.max_segment_tokens or self.recipe.boundary.max_tokens,
            room=request.max_new_tokens - len(state.encoded[k].ids),
            lane=state.lane,
        )

    def _score(self, state: State, turn: Turn) -> Talk[None]:
        """Let every source that is left score the candidates."""
        judges = [k for k in state.active if self.sources[k].name in turn.drafts]
        scored = yield from together(
            [score(k, self.sources[k], self._score_request(state, turn, k)) for k in judges]
        )
        for k, scores in zip(judges, scored, strict=True):
            if isinstance(scores, SourceError):
                self._drop(state, turn, self.sources[k], scores)
            else:
                turn.scores[self.sources[k].name] = scores

    def _score_request(self, state: State, turn: Turn, k: int) -> ScoreRequest:
        return ScoreRequest(
            state.prompts[k],
            state.encoded[k],
            tuple(candidate.text for candidate in turn.candidates),
            tuple(candidate.ends for candidate in turn.candidates),
            sampling_of(state.request, self.sources[k].name),
            state.lane,
        )

    def _drop(self, state: State, turn: Turn, source: Source, error: SourceError) -> None:
        if state.request.on_source_error == "raise":
            names = tuple(each.name for each in self.sources)
            error.generation = Generation(state.text, StopReason.INTERRUPTED, None, names, ())
            raise error
        turn.dropped[source.name] = error

    def _commit(self, state: State, turn: Turn) -> tuple[State, Step]:
        """Append the winner to the state, or say why there is none."""
        active = tuple(k for k in state.active if self.sources[k].name not in turn.dropped)
        failed = any(not isinstance(error, ContextLengthError) for error in turn.dropped.values())
        state = replace(state, active=active, any_failed=state.any_failed or failed)
        winner = turn.candidates[turn.winner] if turn.winner is not None else None
        segment, stop = "", None
        if not active:
            stop = StopReason.SOURCES_FAILED if state.any_failed else StopReason.CONTEXT_LENGTH
        elif winner is None:
            stop = StopReason.NO_DRAFT
        else:
            segment, encoded = self._fit(state, winner.text)
            state = replace(state, text=state.text + segment, encoded=encoded)
            stop = self._limit(state, complete=segment == winner.text)
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
            dropped=tuple(Absence(name, str(error)) for name, error in turn.dropped.items()),
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

    def _fit(self, state: State, text: str) -> tuple[str, tuple[Canonical, ...]]:
        """As much of ``text`` as keeps every source within ``max_new_tokens``, and its encodings."""
        for end in range(len(text), -1, -1):
            encoded = tuple(
                extend(old, text[:end], source.tokenizer) if k in state.active else old
                for k, (old, source) in enumerate(zip(state.encoded, self.sources, strict=True))
            )
            if max(len(encoded[k].ids) for k in state.active) <= state.request.max_new_tokens:
                return text[:end], encoded
        return "", state.encoded

    def _limit(self, state: State, *, complete: bool) -> StopReason | None:
        longest = max(len(state.encoded[k].ids) for k in state.active)
        if not complete or longest >= state.request.max_new_tokens:
            return StopReason.LENGTH
        return None
