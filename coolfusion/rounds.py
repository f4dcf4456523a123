"""Rounds of questions and answers: all that responses ask of one source is one call to it."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from coolfusion.asking import Answer, Ask, Talk
from coolfusion.recall import Recall
from coolfusion.sources import isolated

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass(slots=True)
class Waiting(Generic[Result]):
    """A conversation that waits for answers, and the seconds it has taken so far."""

    talk: Talk[Result]
    asks: list[Ask]
    seconds: float


@dataclass(frozen=True, slots=True)
class Over(Generic[Key, Result]):
    """A conversation that is over: whose it was, what came of it and how long it took."""

    key: Key
    result: Result
    seconds: float


@final
class Rounds(Generic[Key, Result]):
    """Conversations under way. With ``concurrent``, sources answer in threads of their own."""

    def __init__(self, recalls: Sequence[Recall], *, concurrent: bool = False) -> None:
        self._recalls = recalls
        self._concurrent = concurrent
        self._waiting: dict[Key, Waiting[Result]] = {}
        self._over: list[Over[Key, Result]] = []

    def begin(self, key: Key, talk: Talk[Result]) -> None:
        """Take one more conversation in."""
        self._advance(key, Waiting(talk, [], 0.0), None)

    def turn(self) -> list[Over[Key, Result]]:
        """Hold rounds until a conversation is over; returns those that are."""
        while self._waiting and not self._over:
            self._round()
        over, self._over = self._over, []
        return over

    def _round(self) -> None:
        """Answer every question that is open."""
        begun = time.perf_counter()
        waiting = dict(self._waiting)
        asks = [ask for entry in waiting.values() for ask in entry.asks]
        answers = self._answers(asks)
        share = (time.perf_counter() - begun) / len(waiting)
        start = 0
        for key, entry in waiting.items():
            end = start + len(entry.asks)
            entry.seconds += share
            self._advance(key, entry, answers[start:end])
            start = end

    def _answers(self, asks: Sequence[Ask]) -> list[Answer]:
        by_source: dict[int, list[int]] = {}
        for index, ask in enumerate(asks):
            by_source.setdefault(ask.source, []).append(index)

        def answered(source: int) -> list[Answer]:
            mine = [asks[index] for index in by_source[source]]
            return isolated(self._recalls[source].answer, mine)

        if self._concurrent and len(by_source) > 1:
            with ThreadPoolExecutor(len(by_source)) as threads:
                found = list(threads.map(answered, by_source))
        else:
            found = [answered(source) for source in by_source]
        answers: dict[int, Answer] = {}
        for indices, some in zip(by_source.values(), found, strict=True):
            answers.update(zip(indices, some, strict=True))
        return [answers[index] for index in range(len(asks))]

    def _advance(self, key: Key, entry: Waiting[Result], answers: list[Answer] | None) -> None:
        begun = time.perf_counter()
        self._waiting.pop(key, None)
        try:
            entry.asks = next(entry.talk) if answers is None else entry.talk.send(answers)
        except StopIteration as stop:
            seconds = entry.seconds + time.perf_counter() - begun
            self._over.append(Over(key, stop.value, seconds))
            return
        entry.seconds += time.perf_counter() - begun
        self._waiting[key] = entry


def hold(talk: Talk[Result], recalls: Sequence[Recall]) -> Result:
    """Hold one conversation to its end."""
    rounds: Rounds[int, Result] = Rounds(recalls)
    rounds.begin(0, talk)
    return rounds.turn()[0].result
