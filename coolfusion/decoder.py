"""The fusion loop: draft, merge, score, rerank, commit (arXiv 2407.19807, section 3).

States are immutable and a step is a pure function of a state, so a response can be
branched, resumed or decoded beside others without changing what it says.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import final

from coolfusion import contest
from coolfusion.alignment import ratified_cuts
from coolfusion.canonical import Canonical, extend
from coolfusion.contest import Turn
from coolfusion.drafting import Draft, DraftRequest, Pen, draft
from coolfusion.emission import emit
from coolfusion.errors import ContextLengthError, PromptError, SourceError
from coolfusion.recipe import Recipe, Request
from coolfusion.scoring import ScoreRequest, score
from coolfusion.sources import Source, check_names, isolated
from coolfusion.speculation import Speculation, Speculator, remembering
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
        self._remembering = [remembering(source) for source in sources]
        self._voices = [source for source, _ in self._remembering]
        paces = [pace for _, pace in self._remembering]
        self._speculator = (
            None
            if speculation is None
            else Speculator(self._voices, paces, self.recipe.boundary, speculation)
        )

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
        begun = time.perf_counter()
        turns = [Turn(tuple(self.sources[k].name for k in state.active)) for state in states]
        if self._speculator is not None:
            for turn, spent in zip(turns, self._speculator.prepare(states), strict=True):
                turn.guessed = spent
        self._draft(states, turns)
        for turn in turns:
            contest.merge(turn, self.recipe)
        self._score(states, turns)
        for turn in turns:
            contest.decide(turn, self.recipe)
        seconds = (time.perf_counter() - begun) / len(states)
        return [
            self._commit(state, turn, seconds) for state, turn in zip(states, turns, strict=True)
        ]

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
        self, prompts: Sequence[Prompt], request: Request | None = None, *, max_rows: int = 32
    ) -> list[Generation]:
        """One response per prompt; up to ``max_rows`` are decoded side by side."""
        results: dict[int, Generation] = dict(
            self.generate_each(prompts, request, max_rows=max_rows)
        )
        return [results[index] for index in range(len(prompts))]

    def generate_each(
        self, prompts: Iterable[Prompt], request: Request | None = None, *, max_rows: int = 32
    ) -> Iterator[tuple[int, Generation]]:
        """(index, response) pairs in the order they finish; waiting prompts take freed rows."""
        waiting = enumerate(prompts)
        rows: list[tuple[int, State, list[Step]]] = []
        while True:
            while len(rows) < max_rows and (entry := next(waiting, None)) is not None:
                rows.append((entry[0], self.start(entry[1], request), []))
            if not rows:
                return
            stepped = self.step_batch([state for _, state, _ in rows])
            going = []
            for (index, _, steps), (state, step) in zip(rows, stepped, strict=True):
                steps.append(step)
                if state.stop_reason is None:
                    going.append((index, state, steps))
                else:
                    yield index, self.finish(state, steps)
            rows = going

    def finish(self, state: State, steps: Sequence[Step]) -> Generation:
        """The response that ``state`` and the ``steps`` that led to it make up."""
        return Generation(
            text="".join(step.text for step in steps),
            stop_reason=state.stop_reason or StopReason.INTERRUPTED,
            stop_string=state.stop_string,
            sources=tuple(source.name for source in self.sources),
            steps=tuple(steps),
        )

    def _draft(self, states: Sequence[State], turns: Sequence[Turn]) -> None:
        """Let every active source draft for every row that it takes part in."""
        for k, source in enumerate(self._voices):
            rows = [row for row, state in enumerate(states) if k in state.active]
            requests = [self._draft_request(states[row], k) for row in rows]
            drafts = isolated(partial(self._drafts_of, source), requests)
            for row, drafted in zip(rows, drafts, strict=True):
                if isinstance(drafted, SourceError):
                    self._drop(states[row], turns[row], source, drafted)
                else:
                    turns[row].drafts[source.name] = drafted

    def _drafts_of(self, source: Source, requests: Sequence[DraftRequest]) -> list[Draft]:
        return draft(source, requests, self._cut)

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

    def _score(self, states: Sequence[State], turns: Sequence[Turn]) -> None:
        """Let every source that is left score the candidates of every contest."""
        for k, source in enumerate(self._voices):
            rows = [
                row
                for row, turn in enumerate(turns)
                if turn.is_contest and source.name in turn.drafts
            ]
            requests = [
                ScoreRequest(
                    states[row].prompts[k],
                    states[row].encoded[k],
                    tuple(candidate.text for candidate in turns[row].candidates),
                    tuple(candidate.ends for candidate in turns[row].candidates),
                    sampling_of(states[row].request, source.name),
                    states[row].lane,
                )
                for row in rows
            ]
            if not requests:
                continue
            scored = isolated(partial(score, source), requests)
            for row, scores in zip(rows, scored, strict=True):
                if isinstance(scores, SourceError):
                    self._drop(states[row], turns[row], source, scores)
                else:
                    turns[row].scores[source.name] = scores

    def _drop(self, state: State, turn: Turn, source: Source, error: SourceError) -> None:
        if state.request.on_source_error == "raise":
            names = tuple(each.name for each in self.sources)
            error.generation = Generation(state.text, StopReason.INTERRUPTED, None, names, ())
            raise error
        turn.dropped[source.name] = error

    def _commit(self, state: State, turn: Turn, seconds: float) -> tuple[State, Step]:
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
            seconds=seconds,
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
