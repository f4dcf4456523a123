"""How a response asks the sources: it is a coroutine that yields questions and is sent answers.

What decodes one response is written for one response. Questions of many responses, to many
sources, are collected in rounds (``coolfusion.rounds``) and answered in shared passes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from coolfusion.backend import Query, Scores
from coolfusion.errors import SourceError


@dataclass(frozen=True, slots=True)
class Ask:
    """A query to the source with this number.

    ``is_draft`` asks for the model's own picks after the query's prefix, which has no
    continuation then: one at least, and all further ones that are known.
    """

    source: int
    query: Query
    is_draft: bool = False


Result = TypeVar("Result")
Answer: TypeAlias = Scores | SourceError
Talk: TypeAlias = Generator[list[Ask], list[Answer], Result]


def ask(questions: list[Ask]) -> Talk[list[Scores]]:
    """Ask and get all answers; the first that is an error is raised."""
    scores = []
    for answer in (yield questions) if questions else []:
        if isinstance(answer, SourceError):
            raise answer
        scores.append(answer)
    return scores


def together(talks: Sequence[Talk[Result]]) -> Talk[list[Result | SourceError]]:
    """Hold several conversations at once; the result of one that fails is its error."""
    results: dict[int, Result | SourceError] = {}
    asked: dict[int, list[Ask]] = {}

    def advance(index: int, answers: list[Answer] | None) -> None:
        try:
            talk = talks[index]
            asked[index] = next(talk) if answers is None else talk.send(answers)
        except StopIteration as stop:
            results[index] = stop.value
        except SourceError as error:
            results[index] = error

    for index in range(len(talks)):
        advance(index, None)
    while asked:
        answers = yield [question for questions in asked.values() for question in questions]
        start = 0
        for index, questions in list(asked.items()):
            del asked[index]
            end = start + len(questions)
            advance(index, answers[start:end])
            start = end
    return [results[index] for index in range(len(talks))]
