"""What all decoders can do that decide a response step by step, whatever a step is."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, NoReturn, TypeVar

from coolfusion.backends.source import Source, check_end_ids, check_limits, check_names
from coolfusion.checks.arguments import checked
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.batching import (
    MAX_ROWS,
    MAX_TOKENS,
    BatchLimits,
    decode_each,
    timed,
)
from coolfusion.decoding.request import Request, Requests, requests_for
from coolfusion.decoding.scheduler import Scheduler, Task, run
from coolfusion.decoding.state import AnyState
from coolfusion.errors import BatchError, CoolfusionError, SourceError, UncopyableError, UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step, StopReason

Result = TypeVar("Result")


class Decoder(ABC, Generic[AnyState]):
    """Decodes responses of ``sources`` alone, as a stream, side by side, or step by step.

    A step is a pure function of a state, so all these ways give the same text. What a decoder
    remembers of responses, here and in its sources, only saves time. Raises ``UsageError``
    without sources, for two of one name, and for a backend whose limits are no numbers.
    """

    @checked
    def __init__(self, sources: Sequence[Source]) -> None:
        check_names([source.name for source in sources])
        check_limits(sources)
        check_end_ids(sources)
        self.sources = tuple(sources)
        self._caches = [AnswerCache(source.backend) for source in self.sources]
        self._concurrent = on_several_devices(self.sources)
        self._sequence_ids = itertools.count()

    def __reduce__(self) -> NoReturn:
        raise UncopyableError(
            f"A {type(self).__name__} cannot be pickled or copied, since its sources hold models and "
            "caches. Make one in each process, from the same sources; states and responses can be "
            "pickled."
        )

    @abstractmethod
    def start(self, prompt: Prompt, request: Request | None = None) -> AnyState:
        """A state with no text yet.

        Raises ``PromptError`` for a prompt that some source cannot take, and ``UsageError`` for
        a request that makes no sense here.
        """

    @abstractmethod
    async def step_async(self, state: AnyState, num_texts: int = 1) -> tuple[AnyState, Step]:
        """One step as a coroutine; ``num_texts`` responses share forward passes."""

    def scheduler(self) -> Scheduler[int, tuple[AnyState, Step]]:
        """A scheduler for steps, which asks sources only what is not known yet.

        Sources on devices of their own answer at the same time, those on one device in turn.
        """
        return Scheduler(self._caches, concurrent=self._concurrent)

    def run(self, task: Task[Result]) -> Result:
        """Run one coroutine that asks the sources, to its end."""
        return run(task, self._caches)

    def branch(self, state: AnyState) -> AnyState:
        """The same response, with a place of its own in caches."""
        if state.sequence_id is None:
            return state
        return replace(state, sequence_id=next(self._sequence_ids))

    def step(self, state: AnyState) -> tuple[AnyState, Step]:
        """Commit one more segment, or stop. A stopped state cannot be stepped."""
        return self.step_batch([state])[0]

    @checked
    def step_batch(self, states: Sequence[AnyState]) -> list[tuple[AnyState, Step]]:
        """Step several responses at once; every row's result is what ``step`` would give.

        Where rows fail, the others are stepped first. Then the error is raised: that of a single
        row itself, otherwise as ``generate_batch`` does.
        """
        if any(state.stop_reason for state in states):
            raise UsageError("A stopped response cannot be stepped. Start a new one.")
        scheduler = self.scheduler()
        for row, state in enumerate(states):
            scheduler.start(row, self.step_async(state, len(states)))
        stepped: dict[int, tuple[AnyState, Step] | Exception] = {}
        while len(stepped) < len(states):
            stepped.update((each.key, timed(each)) for each in scheduler.next_finished())
        return all_succeeded(stepped, is_batch=len(states) > 1)

    def stream(self, prompt: Prompt, request: Request | None = None) -> Iterator[Step]:
        """Steps of one response as they are committed; their texts join to the response."""
        state = self.start(prompt, request)
        while state.stop_reason is None:
            state, step = self.step(state)
            yield step

    @checked
    def generate(self, prompt: Prompt, request: Request | None = None) -> Generation:
        """One whole response.

        With ``on_source_error="raise"``, raises the ``SourceError`` of a source that fails. Its
        ``generation`` holds the text and the steps before.
        """
        outcome = dict(self._outcomes([self.start(prompt, request)], BatchLimits()))
        return all_succeeded(outcome, is_batch=False)[0]

    @checked
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        request: Requests = None,
        *,
        max_rows: int = MAX_ROWS,
        max_tokens: int = MAX_TOKENS,
    ) -> list[Generation]:
        """One response per prompt, decoded side by side within the limits of ``generate_each``.

        A prompt that cannot be taken is refused before any is decoded. Where sources fail with
        ``on_source_error="raise"``, only the rows that they belong to end. When all others are
        over, ``BatchError`` is raised, which holds their responses.
        """
        limits = BatchLimits(max_rows, max_tokens)
        states = [self.start(*each) for each in requests_for(prompts, request)]
        return all_succeeded(dict(self._outcomes(states, limits)), is_batch=True)

    @checked
    def generate_each(
        self,
        prompts: Iterable[Prompt],
        request: Requests = None,
        *,
        max_rows: int = MAX_ROWS,
        max_tokens: int = MAX_TOKENS,
    ) -> Iterator[tuple[int, Generation]]:
        """(index, response) pairs in the order they finish; waiting prompts take freed rows.

        ``request`` holds for all prompts, or is a sequence with one for each. Up to ``max_rows``
        responses are decoded side by side, fewer where their prompts and ``max_new_tokens``
        together exceed ``max_tokens``. A row that fails does not stop the others: when all that
        succeed have been given, the errors are raised as one ``BatchError``.
        """
        failed: dict[int, Exception] = {}
        started: list[int] = []  # numbers of the prompts that could be started

        def states() -> Iterator[AnyState]:
            for number, each in enumerate(requests_for(prompts, request)):
                try:
                    state = self.start(*each)
                except CoolfusionError as error:
                    failed[number] = error
                else:
                    started.append(number)
                    yield state

        for index, outcome in self._outcomes(states(), BatchLimits(max_rows, max_tokens)):
            if isinstance(outcome, Exception):
                failed[started[index]] = outcome
            else:
                yield started[index], outcome
        all_succeeded(failed, is_batch=True)

    def _outcomes(
        self, states: Iterable[AnyState], limits: BatchLimits
    ) -> Iterator[tuple[int, Generation | Exception]]:
        """(index, response or error) for each state, in the order in which they end.

        A ``SourceError`` has the text and the steps before it in its ``generation``. It is there
        with ``on_source_error="raise"`` alone. Any other error is a fault in the settings of a row
        or in the program.
        """
        for response in decode_each(states, self.step_async, self.scheduler(), limits):
            error = response.error
            if isinstance(error, SourceError) and error.generation is not None:
                error.generation = replace(error.generation, steps=tuple(response.steps))
            yield response.index, error or self.finish(response.state, response.steps)

    @checked
    def finish(self, state: AnyState, steps: Sequence[Step]) -> Generation:
        """The response that ``state`` and the ``steps`` that led to it make up."""
        return Generation(
            text="".join(step.text for step in steps),
            stop_reason=state.stop_reason or StopReason.INTERRUPTED,
            stop_string=state.stop_string,
            sources=tuple(source.name for source in self.sources),
            steps=tuple(steps),
        )


def all_succeeded(outcomes: Mapping[int, Result | Exception], *, is_batch: bool) -> list[Result]:
    """The results of all rows in order, if there is no error among their ``outcomes``.

    Raises the first error that no source made. Else raises ``BatchError``, or for what
    ``is_batch`` says is no batch, the error itself.
    """
    results = {row: each for row, each in outcomes.items() if not isinstance(each, Exception)}
    errors = {row: each for row, each in outcomes.items() if isinstance(each, Exception)}
    for row in sorted(errors):
        if not is_batch or not isinstance(errors[row], SourceError):
            raise errors[row]
    if errors:
        raise BatchError(errors, results)
    return [results[row] for row in range(len(results))]


def on_several_devices(sources: Sequence[Source]) -> bool:
    """Whether sources can answer at the same time, as their devices differ."""
    return len({getattr(source.backend, "device", None) for source in sources}) > 1
