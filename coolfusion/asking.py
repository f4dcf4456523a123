"""How a response asks the sources: it is a coroutine that yields questions and is sent answers.

What decodes one response is written for one response. The questions of many responses are
collected and answered in shared calls by ``coolfusion.rounds``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from coolfusion.backends.base import Distributions, Query, Scores
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


@dataclass(frozen=True, slots=True)
class AskDistributions(Ask):
    """A query whose answer is to be whole distributions, ``Distributions`` instead of ``Scores``."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Conversations to be held side by side, none waiting for another."""

    talks: Sequence[Talk[Any]]


Result = TypeVar("Result")
Answer: TypeAlias = Scores | Distributions | SourceError
Talk: TypeAlias = Generator[list[Ask] | Fork, list[Any], Result]


def ask(questions: list[Ask]) -> Talk[list[Scores]]:
    """Ask all questions at once; the first answer that is an error is raised."""
    answers: list[Answer] = (yield questions) if questions else []
    _raise_first(answers)
    return [answer for answer in answers if isinstance(answer, Scores)]


def ask_distributions(questions: list[AskDistributions]) -> Talk[list[Distributions]]:
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
