"""One fusion asked from several threads: backends are asked one at a time, and answers are right."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from coolfusion import Backend, FusionModel, Query, Scores, Source
from coolfusion.backends.base import turn_of
from coolfusion.testing import toy_source

TEXTS = [
    "Tom has 3 apples. He eats 1. Now 2 are left",
    "Ann has 5 pears. She eats 2. Now 3 are left",
]
PROMPTS = ["Tom has", "Ann has", "Now", "He eats"]


class Alone:
    """A backend that notices when it is asked while it answers."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._busy = False
        self.clashes = 0

    @property
    def vocab_size(self) -> int:
        return self._inner.vocab_size

    @property
    def context_length(self) -> int | None:
        return self._inner.context_length

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        self.clashes += self._busy
        self._busy = True
        answers = self._inner.score(queries)
        self._busy = False
        return answers

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        self.clashes += self._busy
        self._busy = True
        answers = self._inner.draft(queries, num_tokens)
        self._busy = False
        return answers


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that are changed all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_take_turns_and_get_their_own_answers(hasty: None) -> None:
    toys = [toy_source("a", TEXTS), toy_source("b", TEXTS[::-1], family="unigram")]
    sources = [Source(each.name, each.tokenizer, Alone(each.backend)) for each in toys]
    fusions = [FusionModel(sources), FusionModel(sources)]  # which share their backends
    wanted = [FusionModel(toys).generate(prompt, max_new_tokens=12).text for prompt in PROMPTS]
    wrong: list[object] = []

    def ask(number: int) -> None:
        prompt = number % len(PROMPTS)
        try:
            text = fusions[number % 2].generate(PROMPTS[prompt], max_new_tokens=12).text
            if text != wanted[prompt]:
                wrong.append(text)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert wrong == []
    assert [source.backend.clashes for source in sources] == [0, 0]  # type: ignore[attr-defined]


def test_a_backend_has_one_lock_as_long_as_it_is_used() -> None:
    backend = toy_source("a", TEXTS).backend
    assert turn_of(backend) is not turn_of(toy_source("a", TEXTS).backend)
    kept = turn_of(backend)
    assert turn_of(backend) is kept
