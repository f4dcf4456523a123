"""How a response asks the sources: it is a coroutine that yields questions and is sent answers.

What decodes one response is written for one response. The questions of many responses are
collected and answered in shared calls by ``coolfusion.decoding.scheduler``.

Scheduler of questions and answers: all that responses ask of one source is one call to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, final

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.errors import SourceError


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A query to the source with this number.

    ``is_draft`` asks for the model's own picks after the query's prefix, which has no
    continuation then: one at least, and all further ones that are known.
    """

    source: int
    query: Query
    is_draft: bool = False


@dataclass(frozen=True, slots=True)
class DistributionRequest(ModelRequest):
    """A query whose answer is to be whole distributions, ``Distributions`` instead of ``Scores``."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Conversations to be held side by side, none waiting for another."""

    talks: Sequence[Talk[Any]]


Result = TypeVar("Result")
Item = TypeVar("Item")
Reply = TypeVar("Reply")
Answer: TypeAlias = Scores | Distributions | SourceError
Talk: TypeAlias = Generator[list[ModelRequest] | Fork, list[Any], Result]


def ask(questions: list[ModelRequest]) -> Talk[list[Scores]]:
    """ModelRequest all questions at once; the first answer that is an error is raised."""
    answers: list[Answer] = (yield questions) if questions else []
    _raise_first(answers)
    return [answer for answer in answers if isinstance(answer, Scores)]


def ask_distributions(questions: list[DistributionRequest]) -> Talk[list[Distributions]]:
    """The same for whole distributions."""
    answers: list[Answer] = (yield [*questions]) if questions else []
    _raise_first(answers)
    return [answer for answer in answers if isinstance(answer, Distributions)]


def _raise_first(answers: Sequence[Answer]) -> None:
    for answer in answers:
        if isinstance(answer, SourceError):
            raise answer


def together(talks: Sequence[Talk[Result]]) -> Talk[list[Result | SourceError]]:
    """Hold several conversations side by side; the result of one that fails is its error."""
    results: list[Result | SourceError] = (yield Fork(talks)) if talks else []
    return results


Key = TypeVar("Key", bound=Hashable)


class Answerer(Protocol):
    """Whoever answers the questions put to one source, whatever answers are to them."""

    def answer(self, asks: Sequence[ModelRequest]) -> list[Any]:
        """Answer questions in order. One of them failing may fail all."""
        ...


@dataclass(slots=True, eq=False)
class Speaker:
    """A conversation under way: what it waits for, who waits for it, the seconds it took.

    ``awaited`` has one place for each answer, or for each result of a fork.
    """

    talk: Talk[Any]
    key: Any
    parent: tuple[Speaker, int] | None = None
    awaited: list[Any] = field(default_factory=list)
    num_missing: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Over(Generic[Key, Result]):
    """A conversation that is over: whose it was, what came of it and how long it took."""

    key: Key
    result: Result
    seconds: float


@final
class Scheduler(Generic[Key, Result]):
    """Conversations under way, and the questions that wait for each source.

    A round is one call to the source for which most questions wait: where sources take turns
    on one device, full calls are the fastest. With ``concurrent``, it is one call to every
    source, each in a thread of its own.
    """

    def __init__(self, answerers: Sequence[Answerer], *, concurrent: bool = False) -> None:
        self._answerers = answerers
        self._concurrent = concurrent
        self._queues: dict[int, list[tuple[Speaker, int, ModelRequest]]] = {}
        self._over: list[Over[Key, Result]] = []

    def begin(self, key: Key, talk: Talk[Result]) -> None:
        """Take one more conversation in."""
        self._advance(Speaker(talk, key), None)

    def turn(self) -> list[Over[Key, Result]]:
        """Hold rounds until a conversation is over; returns those that are."""
        while self._queues and not self._over:
            self._round()
        over, self._over = self._over, []
        return over

    def _round(self) -> None:
        fullest = max(self._queues, key=lambda source: len(self._queues[source]))
        chosen = list(self._queues) if self._concurrent else [fullest]
        queues = [self._queues.pop(source) for source in chosen]
        begun = time.perf_counter()
        answers = self._answers(chosen, queues)
        share = (time.perf_counter() - begun) / sum(len(queue) for queue in queues)
        for queue, some in zip(queues, answers, strict=True):
            for (speaker, place, _), answer in zip(queue, some, strict=True):
                speaker.seconds += share
                self._deliver(speaker, place, answer)

    def _answers(
        self, sources: list[int], queues: list[list[tuple[Speaker, int, ModelRequest]]]
    ) -> list[list[Any]]:
        def answered(source: int, queue: list[tuple[Speaker, int, ModelRequest]]) -> list[Any]:
            return isolated(self._answerers[source].answer, [ask for _, _, ask in queue])

        if len(sources) == 1:
            return [answered(sources[0], queues[0])]
        with ThreadPoolExecutor(len(sources)) as threads:
            return list(threads.map(answered, sources, queues))

    def _deliver(self, speaker: Speaker, place: int, answer: Any) -> None:
        """Hand over one thing that a conversation waits for; with the last it goes on."""
        speaker.awaited[place] = answer
        speaker.num_missing -= 1
        if not speaker.num_missing:
            self._advance(speaker, speaker.awaited)

    def _advance(self, speaker: Speaker, answers: list[Any] | None) -> None:
        begun = time.perf_counter()
        try:
            wanted = next(speaker.talk) if answers is None else speaker.talk.send(answers)
        except StopIteration as stop:
            speaker.seconds += time.perf_counter() - begun
            self._end(speaker, stop.value)
        except SourceError as error:
            if speaker.parent is None:
                raise
            self._end(speaker, error)
        else:
            speaker.seconds += time.perf_counter() - begun
            self._wait(speaker, wanted)

    def _wait(self, speaker: Speaker, wanted: list[ModelRequest] | Fork) -> None:
        asked = wanted.talks if isinstance(wanted, Fork) else wanted
        speaker.awaited = [None] * len(asked)
        speaker.num_missing = len(asked)
        if isinstance(wanted, Fork):
            for place, talk in enumerate(wanted.talks):
                self._advance(Speaker(talk, speaker.key, (speaker, place)), None)
        else:
            for place, ask in enumerate(wanted):
                self._queues.setdefault(ask.source, []).append((speaker, place, ask))

    def _end(self, speaker: Speaker, result: Any) -> None:
        if speaker.parent is None:
            self._over.append(Over(speaker.key, result, speaker.seconds))
            return
        parent, place = speaker.parent
        parent.seconds += speaker.seconds
        self._deliver(parent, place, result)


def hold(talk: Talk[Result], answerers: Sequence[Answerer]) -> Result:
    """Hold one conversation to its end."""
    rounds: Scheduler[int, Result] = Scheduler(answerers)
    rounds.begin(0, talk)
    return rounds.turn()[0].result


def isolated(
    call: Callable[[Sequence[Item]], list[Reply]], rows: Sequence[Item]
) -> list[Reply | SourceError]:
    """Answers to a batch of rows, in which a failing row fails alone.

    Calls have value semantics, so a batch that fails is simply asked again row by row.
    """
    try:
        return list(call(rows))
    except Exception as error:
        if len(rows) == 1:
            return [as_source_error(error)]
    return [answer for row in rows for answer in isolated(call, [row])]


def as_source_error(error: Exception) -> SourceError:
    """The error itself if it is a source's, else one that carries its type and message."""
    if isinstance(error, SourceError):
        return error
    wrapped = SourceError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
