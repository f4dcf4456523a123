"""A source that cannot be reached is asked once, then left alone until its wait is over."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion import FusionModel, Request, SegmentDecoder, Source
from coolfusion.backends.base import Query
from coolfusion.decoding.answers.rerank import own_answers
from coolfusion.decoding.breaker import FIRST_WAIT, LONGEST_WAIT, Breaker, breaker_of
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.errors import BatchError, SourceError, SourceUnreachableError
from coolfusion.testing import toy_source
from coolfusion.types import StopReason
from tests.liars import Wrapped
from tests.strategies import STORIES

PROMPTS = ["Tom has", "Ann has", "The cat", "Tom sat"] * 2
REQUEST = Request(max_new_tokens=12)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Remote(Wrapped):
    """A backend that cannot be reached while it ``is_down``; it counts the calls to it."""

    def __init__(self, source: Source, error: Exception | None = None) -> None:
        super().__init__(source)
        self.num_calls, self.is_down = 0, True
        self.error = error or SourceUnreachableError("Nobody answers at port 80.")
        self.clock = breaker_of(self).clock = Clock()

    def score(self, queries: Sequence[Query]) -> Any:
        self.reach()
        return super().score(queries)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> Any:
        self.reach()
        return super().draft(queries, num_tokens)

    def distributions(self, queries: Sequence[Query]) -> Any:
        self.reach()
        return super().distributions(queries)

    def reach(self) -> None:
        self.num_calls += 1
        if self.is_down:
            raise self.error


def near() -> Source:
    return toy_source("near", STORIES)


def far(error: Exception | None = None) -> Source:
    source = toy_source("far", STORIES)
    return replace(source, backend=Remote(source, error))


@pytest.mark.parametrize(
    "error",
    [
        SourceUnreachableError("Nobody answers."),
        ConnectionRefusedError("port 80"),
        TimeoutError("30 s"),
    ],
)
@pytest.mark.parametrize("decoder", [SegmentDecoder, MixtureDecoder])
def test_eight_rows_ask_a_dead_source_once(error: Exception, decoder: Any) -> None:
    sources = [far(error), near()]
    batch = decoder(sources).generate_batch(PROMPTS, REQUEST)
    assert sources[0].backend.num_calls == 1
    alone = decoder(sources[1:]).generate_batch(PROMPTS, REQUEST)
    assert [each.text for each in batch] == [each.text for each in alone]
    for generation in batch:
        assert generation.warnings[0].startswith('Source "far" was dropped at step 0')


def test_all_who_share_a_source_share_its_breaker() -> None:
    sources = [far(), near()]
    fusion = FusionModel(sources)
    fusion.generate_batch(PROMPTS, max_new_tokens=4)
    fusion.generate(PROMPTS[0], strategy="mixture", max_new_tokens=4)
    fusion.n_best(PROMPTS[0], 2, max_new_tokens=4)
    answers = own_answers(sources[0], PROMPTS, REQUEST)
    assert {each.stop_reason for each in answers} == {StopReason.SOURCES_FAILED}
    assert sources[0].backend.num_calls == 1
    other = far()
    SegmentDecoder([other]).generate(PROMPTS[0], REQUEST)
    assert other.backend.num_calls == 1


def test_a_source_that_comes_back_is_asked_again_after_the_wait() -> None:
    sources = [far(), near()]
    remote, decoder = sources[0].backend, SegmentDecoder(sources)
    decoder.generate(PROMPTS[0], REQUEST)
    remote.is_down = False
    remote.clock.now = FIRST_WAIT - 1
    assert decoder.generate(PROMPTS[0], REQUEST).warnings
    assert remote.num_calls == 1
    remote.clock.now = FIRST_WAIT
    assert not decoder.generate(PROMPTS[0], REQUEST).warnings
    assert remote.num_calls > 1


def test_the_wait_doubles_and_has_an_end() -> None:
    clock = Clock()
    breaker, calls = Breaker(clock), 0

    def down() -> None:
        nonlocal calls
        calls += 1
        raise SourceUnreachableError("It is down.")

    waits = []
    for _ in range(8):
        with pytest.raises(SourceUnreachableError):
            breaker.call(down)
        made, begun = calls, clock.now
        while calls == made:
            clock.now += FIRST_WAIT / 2
            with pytest.raises(SourceUnreachableError, match=r"It is down\."):
                breaker.call(down)
        waits.append(clock.now - begun)
        calls = made
    assert waits[0] == FIRST_WAIT
    assert max(waits) == waits[-1] == LONGEST_WAIT


def test_one_probe_goes_through_at_a_time() -> None:
    clock = Clock()
    breaker = Breaker(clock)

    def down() -> None:
        raise SourceUnreachableError("It is down.", retry_after=5)

    with pytest.raises(SourceUnreachableError):
        breaker.call(down)
    clock.now = 5.0

    def probe() -> str:
        with pytest.raises(SourceUnreachableError, match="5 seconds"):
            breaker.call(lambda: "a second probe")
        return "reached"

    assert breaker.call(probe) == "reached"
    assert breaker.call(lambda: "closed") == "closed"


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, ValueError])
def test_a_probe_that_is_stopped_is_no_probe_for_ever(stopped: type[BaseException]) -> None:
    clock = Clock()
    breaker = Breaker(clock)

    def raising(error: BaseException) -> None:
        raise error

    with pytest.raises(SourceUnreachableError):
        breaker.call(lambda: raising(TimeoutError()))
    clock.now = FIRST_WAIT
    with pytest.raises((stopped, SourceError)):
        breaker.call(lambda: raising(stopped()))
    assert breaker.call(lambda: "reached") == "reached"


@given(
    st.lists(st.tuples(st.sampled_from(["up", "down", "broken"]), st.floats(0, 900)), max_size=20)
)
def test_no_call_goes_through_within_a_wait(events: list[tuple[str, float]]) -> None:
    """A model of the breaker in a few lines: until when, and how long the last wait was."""
    clock = Clock()
    breaker, until, wait = Breaker(clock), 0.0, 0.0
    for kind, pause in events:
        clock.now += pause
        went = []

        def ask(kind: str = kind, went: list[str] = went) -> None:
            went.append(kind)
            if kind == "down":
                raise ConnectionError("down")
            if kind == "broken":
                raise SourceError("broken")

        with contextlib.suppress(SourceError):
            breaker.call(ask)
        assert bool(went) == (clock.now >= until)
        if went and kind == "down":
            wait = min(LONGEST_WAIT, 2 * wait) if wait else FIRST_WAIT
            until = clock.now + wait
        elif went:
            until = wait = 0.0


def test_a_backend_is_forgotten_with_its_breaker() -> None:
    first = Remote(near())
    kept = breaker_of(first)
    assert breaker_of(first) is kept
    del first
    assert breaker_of(Remote(near())) is not kept

    class Slotted:
        __slots__ = ()

    assert breaker_of(Slotted()) is not breaker_of(Slotted())


def test_a_raised_absence_says_which_source_it_is_in_every_row() -> None:
    sources = [far(), near()]
    request = replace(REQUEST, on_source_error="raise")
    with pytest.raises(BatchError, match='Source "far": Nobody answers') as caught:
        SegmentDecoder(sources).generate_batch(PROMPTS, request)
    errors = list(caught.value.errors.values())
    assert len({id(error) for error in errors}) == len(errors) == len(PROMPTS)
    assert all(isinstance(error, SourceUnreachableError) for error in errors)
    assert sources[0].backend.num_calls == 1
