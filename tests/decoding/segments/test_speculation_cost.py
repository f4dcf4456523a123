"""Guessing ahead never costs more than it saves, whatever a pass costs and however sources agree.

Nothing here is timed. Sources advance a clock of the test's own by what a curve says of every call,
so that costs are exact, and the decoder measures its paces on that clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest

from coolfusion import Request, SegmentDecoder, Source, Speculation
from coolfusion.backends.base import Query, Scores
from coolfusion.decoding import answer_cache
from coolfusion.testing.toys import toy_source

WORDS = ("river", "stone", "over", "a", "light", "running", "of", "never", "moss", "it")
PROMPTS = ("the old mill by", "we went along with", "what they had seen was")
LENGTH = 48  # tokens of each response
# What responses may cost more before anything is learnt: so many calls to every source. Later, a
# size of call that once did not pay is tried again now and then.
START = 8
RETRIES = 0.05

Curve: TypeAlias = Callable[[int], float]
CURVES: dict[str, Curve] = {
    "all pass": lambda n: 1.0,
    "all tokens": lambda n: 0.1 * n,
    "both": lambda n: 0.7 + 0.06 * n,
    "a jump at two": lambda n: 1.0 if n == 1 else 1.9 + 0.02 * n,
    "flat, then rising": lambda n: 1.0 + 0.2 * max(0, n - 8),
}


class Clock:
    """Seconds that only calls of sources take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Speaker:
    """A model that says the common next word with the probability ``agreement``, else its own.

    How sure it is tells how likely the word is committed only if it is ``honest``. A call takes
    what ``curve`` says of the tokens that a token tree has to compute.
    """

    def __init__(
        self, source: Source, clock: Clock, curve: Curve, agreement: float, *, honest: bool
    ) -> None:
        self.tokenizer, self.name = source.tokenizer, source.name
        self.vocab_size = source.backend.vocab_size
        self.context_length = None
        self.clock, self.curve, self.agreement, self.honest = clock, curve, agreement, honest
        self.computed: dict[int | None, set[tuple[int, ...]]] = {}

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        fresh = set()
        for query in queries:
            ids = query.prefix + query.continuation
            known = self.computed.setdefault(query.sequence_id, set())
            for end in range(1, len(ids) + 1):
                if end >= len(query.prefix) or ids[:end] not in known:
                    fresh.add((query.sequence_id, ids[:end]))
        for sequence_id, ids in fresh:
            self.computed[sequence_id].add(ids)
        self.clock.now += self.curve(len(fresh))
        return [self._answer(query) for query in queries]

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        assert num_tokens == 1
        return [
            Scores(each.pick_log_probs, each.picks, each.pick_log_probs, each.watched, 1, 1)
            for each in self.score(queries)
        ]

    def _answer(self, query: Query) -> Scores:
        log_probs, picks, pick_log_probs = [], [], []
        for end in range(len(query.continuation) + 1):
            pick, sure = self._next(query.prefix + query.continuation[:end])
            picks.append(pick)
            pick_log_probs.append(math.log(sure))
            if end < len(query.continuation):
                is_pick = query.continuation[end] == pick
                other = (1 - sure) / (self.vocab_size - 1)
                log_probs.append(math.log(sure if is_pick else other))
        watched = (-20.0,) * len(picks)
        return Scores(tuple(log_probs), tuple(picks), tuple(pick_log_probs), watched, 1, 1)

    def _next(self, ids: tuple[int, ...]) -> tuple[int, float]:
        """The next token of the word that it would say here, and how sure it is of it."""
        pieces = [self.tokenizer.piece(token) or b"" for token in ids]
        text = b"".join(pieces).decode("utf-8", "replace")
        before, _, begun = text.rpartition(" ")
        own = random.Random(f"{self.name} {before}")
        agrees = own.random() < self.agreement
        word = (random.Random(before) if agrees else own).choice(WORDS)
        rest = word[len(begun) :] if word.startswith(begun) else ""
        said = self.tokenizer.encode(f"{text}{rest} ")
        token = said[len(ids)] if said[: len(ids)] == ids else self.tokenizer.encode(f"{rest} ")[0]
        sure = own.uniform(0.75, 0.99) if agrees else own.uniform(0.2, 0.8)
        return token, sure if self.honest else own.uniform(0.3, 0.99)


FAMILIES = ("byte_bpe", "characters", "byte_bpe")
TEXT = " ".join(WORDS * 4)
TOYS = [toy_source(f"{family} {i}", [TEXT], family=family) for i, family in enumerate(FAMILIES)]


def seconds(
    speculation: Speculation | None,
    agreement: float,
    curve: str,
    slowness: Sequence[float],
    honest: bool,
) -> tuple[float, list[str]]:
    """What all responses took together, and what they say."""
    clock = Clock()
    sources = [
        Source(
            toy.name,
            toy.tokenizer,
            Speaker(toy, clock, slowed(curve, by), agreement, honest=honest),
        )
        for toy, by in zip(TOYS, slowness, strict=False)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_cache, "time", clock)
        decoder = SegmentDecoder(sources, speculation=speculation)
        texts = [decoder.generate(p, Request(max_new_tokens=LENGTH)).text for p in PROMPTS]
    return clock.now, texts


def slowed(curve: str, by: float) -> Curve:
    return lambda n: by * CURVES[curve](n)


ALIKE = (1.0, 1.0)
SLOWNESS = ((1.0, 5.0), (5.0, 1.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "slowness", [ALIKE, *(pytest.param(each, marks=pytest.mark.nightly) for each in SLOWNESS)]
)
@pytest.mark.parametrize("curve", sorted(CURVES))
def test_it_never_loses(curve: str, slowness: Sequence[float]) -> None:
    start = START * sum(slowed(curve, by)(1) for by in slowness)
    for agreement, honest in ((0.0, False), (0.5, True), (1.0, True)):
        with_it, texts = seconds(Speculation(), agreement, curve, slowness, honest=honest)
        without, same = seconds(None, agreement, curve, slowness, honest=honest)
        assert texts == same
        assert with_it <= (1 + RETRIES) * without + start


def test_it_gains_where_a_pass_costs_the_same_whatever_it_reads() -> None:
    """Sources that agree on half of all words are a fifth cheaper, and those that agree a quarter."""
    for agreement, most in ((0.5, 0.8), (1.0, 0.75)):
        with_it, _ = seconds(Speculation(), agreement, "all pass", (1.0, 1.0), honest=True)
        without, _ = seconds(None, agreement, "all pass", (1.0, 1.0), honest=True)
        assert with_it <= most * without
