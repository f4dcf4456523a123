"""What all decoders can do that decide a response step by step, whatever a step is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic

from coolfusion.backends.source import Source
from coolfusion.decoding.batching import (
    MAX_ROWS,
    MAX_TOKENS,
    BatchLimits,
    State,
    decode_each,
    timed,
)
from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import Scheduler, Talk
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step, StopReason


class Decoder(ABC, Generic[State]):
    """Decodes responses of ``sources`` alone, as a stream, side by side, or step by step.

    A step is a pure function of a state, so that none of these ways says anything else.
    """

    sources: tuple[Source, ...]

    @abstractmethod
    def start(self, prompt: Prompt, request: Request | None = None) -> State:
        """A state with nothing said yet.

        Raises ``PromptError`` for a prompt that some source cannot take, and ``UsageError`` for
        a request that makes no sense here.
        """

    @abstractmethod
    def scheduler(self) -> Scheduler[int, tuple[State, Step]]:
        """What answers the questions that steps have for the sources.

        Sources on devices of their own answer at the same time, those on one device in turn.
        """

    @abstractmethod
    def stepping(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Step]]:
        """One step as a conversation with the sources; ``num_texts`` share their passes."""

    def step(self, state: State) -> tuple[State, Step]:
        """Commit one more segment, or stop. A stopped state cannot be stepped."""
        return self.step_batch([state])[0]

    def step_batch(self, states: Sequence[State]) -> list[tuple[State, Step]]:
        """Step several responses at once; every row's result is what ``step`` would give."""
        if any(state.stop_reason for state in states):
            raise ValueError("A stopped response cannot be stepped. Start a new one.")
        rounds = self.scheduler()
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
        return decode_each(self, prompts, request, BatchLimits(max_rows, max_tokens))

    def finish(self, state: State, steps: Sequence[Step]) -> Generation:
        """The response that ``state`` and the ``steps`` that led to it make up."""
        return Generation(
            text="".join(step.text for step in steps),
            stop_reason=state.stop_reason or StopReason.INTERRUPTED,
            stop_string=state.stop_string,
            sources=tuple(source.name for source in self.sources),
            steps=tuple(steps),
        )


def on_several_devices(sources: Sequence[Source]) -> bool:
    """Whether sources can answer at the same time, as their devices differ."""
    return len({getattr(source.backend, "device", None) for source in sources}) > 1
