"""The scheduler: it runs the coroutines of many responses and shares their model calls.

A response is decoded by coroutines (``async def``), written as if it were the only one. A
coroutine awaits one of two things: the answers to model requests, or other coroutines that run
side by side. The scheduler drives them; there is no event loop. All requests that wait for one
source are answered in one call, so that responses at any stage share forward passes.

Whatever one coroutine raises ends that coroutine alone. Its error is its result, and all others
go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, final

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.errors import SourceError, SourceUnreachableError


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A query to the model of the source with this number.

    ``is_draft`` asks for the model's own picks after the prefix of a query without continuation.
    The answer has at least one pick, and all further ones that are known.
    """

    source: int
    query: Query
    is_draft: bool = False


@dataclass(frozen=True, slots=True)
class DistributionRequest(ModelRequest):
    """A query for whole distributions: its answer is ``Distributions`` instead of ``Scores``."""


Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Item = TypeVar("Item")
Reply = TypeVar("Reply")
Answer: TypeAlias = Scores | Distributions | SourceError
Task: TypeAlias = Coroutine[Any, Any, Result]


@dataclass(frozen=True, slots=True)
class _Requests:
    """Awaits the answers to model requests, in order."""

    requests: Sequence[ModelRequest]

    def __await__(self) -> Generator[_Requests, list[Answer], list[Scores | Distributions]]:
        """Raises the first answer that is an error."""
        answers = yield self
        answered: list[Scores | Distributions] = []
        for answer in answers:
            if isinstance(answer, SourceError):
                raise answer
            answered.append(answer)
        return answered


@dataclass(frozen=True, slots=True)
class _Gather(Generic[Result]):
    """Awaits coroutines that run side by side."""

    tasks: Sequence[Task[Result]]

    def __await__(
        self,
    ) -> Generator[_Gather[Result], list[Result | SourceError], list[Result | SourceError]]:
        return (yield self)


async def ask(requests: Sequence[ModelRequest]) -> list[Scores]:
    """Answers to ``requests``, in order. Raises the first ``SourceError`` among them."""
    return _all_of(Scores, await _Requests(requests)) if requests else []


async def ask_distributions(requests: Sequence[DistributionRequest]) -> list[Distributions]:
    """Whole distributions, in order. Raises the first ``SourceError`` among them."""
    return _all_of(Distributions, await _Requests(requests)) if requests else []


async def gather(tasks: Sequence[Task[Result]]) -> list[Result | SourceError]:
    """Run coroutines side by side; the result of one that raises ``SourceError`` is the error."""
    return await _Gather(tasks) if tasks else []


def _all_of(kind: type[Reply], answers: Sequence[object]) -> list[Reply]:
    """The answers, all of the ``kind`` that was asked for."""
    checked: list[Reply] = []
    for answer in answers:
        if not isinstance(answer, kind):
            raise SourceError(
                f"The backend answered with {type(answer).__name__} where {kind.__name__} were asked "
                "for. Check it with coolfusion.testing.check_backend."
            )
        checked.append(answer)
    return checked


class Answerer(Protocol):
    """Answers the requests to one source."""

    def answer(self, requests: Sequence[ModelRequest]) -> list[Any]:
        """Answers, in the order of the requests. One request that fails may fail all."""
        ...


@dataclass(slots=True, eq=False)
class _Running:
    """A coroutine under way: what it waits for, which one waits for it, the seconds it took.

    ``awaited`` has one place for each answer, or for each result of a gather. ``is_over`` says of
    one without parent that it has ended, and that nothing is delivered any more.
    """

    task: Task[Any]
    key: Any
    parent: tuple[_Running, int] | None = None
    awaited: list[Any] = field(default_factory=list)
    num_missing: int = 0
    seconds: float = 0.0
    is_over: bool = False

    @property
    def root(self) -> _Running:
        """The coroutine that was started, which this one is a part of."""
        return self if self.parent is None else self.parent[0].root


@dataclass(frozen=True, slots=True)
class Finished(Generic[Key, Result]):
    """A coroutine that is over: its key, its result or the error it raised, and the seconds it took."""

    key: Key
    result: Result | Exception
    seconds: float


@final
class Scheduler(Generic[Key, Result]):
    """Coroutines under way, and the model requests that wait for each source.

    A round is one call to the source for which most requests wait: where sources take turns
    on one device, full calls are the fastest. With ``concurrent``, it is one call to every
    source, each in a thread of its own.
    """

    def __init__(self, answerers: Sequence[Answerer], *, concurrent: bool = False) -> None:
        self._answerers = answerers
        self._concurrent = concurrent
        self._queues: dict[int, list[tuple[_Running, int, ModelRequest]]] = {}
        self._finished: list[Finished[Key, Result]] = []

    def start(self, key: Key, task: Task[Result]) -> None:
        """Run one more coroutine, up to the first thing that it waits for."""
        self._advance(_Running(task, key), None)

    def next_finished(self) -> list[Finished[Key, Result]]:
        """Hold rounds until a coroutine is over; returns those that are."""
        while self._queues and not self._finished:
            self._round()
        finished, self._finished = self._finished, []
        return finished

    def _round(self) -> None:
        fullest = max(self._queues, key=lambda source: len(self._queues[source]))
        chosen = list(self._queues) if self._concurrent else [fullest]
        queues = [self._queues.pop(source) for source in chosen]
        begun = time.perf_counter()
        answers = self._answers(chosen, queues)
        share = (time.perf_counter() - begun) / sum(len(queue) for queue in queues)
        for queue, some in zip(queues, answers, strict=True):
            for (running, place, _), answer in zip(queue, some, strict=True):
                running.seconds += share
                self._deliver(running, place, answer)

    def _answers(
        self, sources: list[int], queues: list[list[tuple[_Running, int, ModelRequest]]]
    ) -> list[list[Any]]:
        def answered(source: int, queue: list[tuple[_Running, int, ModelRequest]]) -> list[Any]:
            return isolated(self._answerers[source].answer, [request for _, _, request in queue])

        if len(sources) == 1:
            return [answered(sources[0], queues[0])]
        with ThreadPoolExecutor(len(sources)) as threads:
            return list(threads.map(answered, sources, queues))

    def _deliver(self, running: _Running, place: int, answer: Any) -> None:
        """Hand over one thing that a coroutine waits for; with the last one it goes on."""
        if running.root.is_over:
            return
        running.awaited[place] = answer
        running.num_missing -= 1
        if not running.num_missing:
            self._advance(running, running.awaited)

    def _advance(self, running: _Running, answers: list[Any] | None) -> None:
        begun = time.perf_counter()
        try:
            wanted = running.task.send(answers)
        except StopIteration as stop:
            running.seconds += time.perf_counter() - begun
            self._end(running, stop.value)
        except SourceError as error:
            running.seconds += time.perf_counter() - begun
            self._end(running, error)
        except Exception as error:
            self._fail(running.root, error)
        else:
            running.seconds += time.perf_counter() - begun
            self._wait(running, wanted)

    def _wait(self, running: _Running, wanted: _Requests | _Gather[Any]) -> None:
        awaited = wanted.tasks if isinstance(wanted, _Gather) else wanted.requests
        running.awaited = [None] * len(awaited)
        running.num_missing = len(awaited)
        if isinstance(wanted, _Gather):
            self._branch(running, wanted.tasks)
            return
        for place, request in enumerate(wanted.requests):
            self._queues.setdefault(request.source, []).append((running, place, request))

    def _branch(self, parent: _Running, tasks: Sequence[Task[Any]]) -> None:
        """Run the coroutines that another one waits for."""
        for place, task in enumerate(tasks):
            try:
                if parent.root.is_over:
                    task.close()
                else:
                    self._advance(_Running(task, parent.key, (parent, place)), None)
            except BaseException:
                for never_started in tasks[place + 1 :]:
                    never_started.close()
                raise

    def _fail(self, root: _Running, error: Exception) -> None:
        """End a coroutine with all its parts, as there is a fault in it that no source made."""
        root.is_over = True
        root.task.close()
        for source, queue in [*self._queues.items()]:
            left = [each for each in queue if each[0].root is not root]
            self._queues[source] = left
            if not left:
                del self._queues[source]
        self._finished.append(Finished(root.key, error, root.seconds))

    def _end(self, running: _Running, result: Any) -> None:
        if running.parent is None:
            self._finished.append(Finished(running.key, result, running.seconds))
            return
        parent, place = running.parent
        parent.seconds += running.seconds
        self._deliver(parent, place, result)


def run(task: Task[Result], answerers: Sequence[Answerer]) -> Result:
    """Run one coroutine to its end and return its result, or raise what it raised."""
    scheduler: Scheduler[int, Result] = Scheduler(answerers)
    scheduler.start(0, task)
    result = scheduler.next_finished()[0].result
    if isinstance(result, Exception):
        raise result
    return result


def isolated(
    call: Callable[[Sequence[Item]], list[Reply]], items: Sequence[Item]
) -> list[Reply | SourceError]:
    """Answers to a batch, in which an item that fails does so alone.

    Calls have value semantics, so a batch that fails is simply asked again one by one. One that
    finds nobody there is not.
    """
    try:
        return list(call(items))
    except Exception as error:
        failure = as_source_error(error)
        if len(items) == 1 or isinstance(failure, SourceUnreachableError):
            return [failure] * len(items)
    return [answer for item in items for answer in isolated(call, [item])]


def as_source_error(error: Exception) -> SourceError:
    """The error itself if it is a source's, else one that carries its type and message."""
    if isinstance(error, SourceError):
        return error
    is_absence = isinstance(error, (ConnectionError, TimeoutError))
    kind = SourceUnreachableError if is_absence else SourceError
    wrapped = kind(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
