"""The fusion loop: draft, merge, score, rerank, commit (arXiv 2407.19807, section 3).

States are immutable and a step is a pure function of a state, so a response can be
branched, resumed or decoded beside others without changing what it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar, final

from coolfusion.asking import Talk
from coolfusion.batching import MAX_ROWS, MAX_TOKENS, Limits, decode_each, timed
from coolfusion.canonical import Canonical
from coolfusion.committing import commit
from coolfusion.contest import Turn
from coolfusion.errors import PromptError, UsageError
from coolfusion.recall import Recall
from coolfusion.recipe import Recipe, Request
from coolfusion.rounds import Rounds, hold
from coolfusion.sources import Source, check_names
from coolfusion.speculation import Speculation, Speculator
from coolfusion.state import State
from coolfusion.tokenizer import Prompt
from coolfusion.turns import Turns
from coolfusion.types import Generation, Step, StopReason

Result = TypeVar("Result")

DEFAULT_SPECULATION = Speculation()


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
        devices = {getattr(source.backend, "device", None) for source in sources}
        self._concurrent = len(devices) > 1
        speculator = None
        if speculation is not None:
            speculator = Speculator(self.sources, self._recalls, self.recipe, speculation)
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
        return State(request, prompt, prompts, nothing, everyone, next(self._lanes))

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
        """What answers the questions that steps have for the sources.

        Sources on devices of their own answer at the same time, those on one device in turn.
        """
        return Rounds(self._recalls, concurrent=self._concurrent)

    def hold(self, talk: Talk[Result]) -> Result:
        """Hold a conversation with the sources to its end."""
        return hold(talk, self._recalls)

    def stepping(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Step]]:
        """One step as a conversation with the sources; ``num_texts`` share their passes."""
        state, turn = yield from self.turns.take(state, num_texts)
        return self.commit(state, turn)

    def commit(self, state: State, turn: Turn) -> tuple[State, Step]:
        """The state after the turn's winner, and the step that led to it."""
        return commit(self.sources, self.recipe, state, turn)

    def branch(self, state: State) -> State:
        """The same response, with a place of its own in whatever is remembered of responses."""
        return state if state.lane is None else replace(state, lane=next(self._lanes))
