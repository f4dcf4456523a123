"""Backends that lie at any time, in any way, to any decoder: never a hang, never in silence.

What a liar says is either a failure of its source, by which the response then goes on without it,
or an error of this package. Until the first lie, a response is the one that honest sources give.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import Request, Sampling, SegmentDecoder, Source, UsageError
from coolfusion.decoding.answers.rerank import rerank_answers
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import make_mixture
from coolfusion.decoding.segments.beam import BeamSearch
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.errors import CoolfusionError, SourceError
from coolfusion.testing import toy_source
from coolfusion.types import Generation, StopReason
from tests.liars import LIES, Lying, Wrapped
from tests.strategies import said

TEXTS = ["Tom has 3 apples. He eats 1 apple.", "Ann has 5 pears. She eats 2 pears."]
PROMPTS = ["Tom has", "Ann has", "He"]
REQUEST = Request(max_new_tokens=10)
MAX_CALLS = 2000  # of a backend in one batch; more means that something goes round in circles

lies = st.lists(st.sampled_from([None, None, None, *LIES]), min_size=1, max_size=30)
KINDS = ("plain", "guessing", "bytes", "learning", "paper", "arithmetic", "geometric", "by bytes")


class Bounded(Lying):
    """A liar that is not asked for ever."""

    def spoiled(self, *args: Any) -> Any:
        self.num_calls = getattr(self, "num_calls", 0) + 1
        assert self.num_calls < MAX_CALLS
        return super().spoiled(*args)


def decoder(kind: str, sources: list[Source]) -> Any:
    if kind in ("arithmetic", "geometric"):
        return MixtureDecoder(sources, make_mixture(kind, prior="prompt"))
    if kind == "by bytes":
        return MixtureDecoder(sources, make_mixture("geometric", route="bytes"))
    parts: dict[str, Any] = {"bytes": {"scores": "bytes"}}.get(kind, {})
    if kind == "learning":
        parts = {"prior": "prompt", "hedge": 0.3, "reranker": "calibrated(mean_nll)", "gate": 0.99}
    recipe = make_recipe("paper" if kind == "paper" else "default", **parts)
    speculation = {} if kind == "guessing" else {"speculation": None}
    return SegmentDecoder(sources, recipe, **speculation)


def honest() -> list[Source]:
    return [toy_source("first", TEXTS), toy_source("second", TEXTS[:1], family="unigram")]


def with_liar(names: list[str | None]) -> tuple[list[Source], Bounded]:
    first, second = honest()
    liar = Bounded(first, iter(names))
    return [replace(first, backend=liar), second], liar


@settings(max_examples=15)
@given(lies, st.sampled_from(KINDS), st.sampled_from([0.0, 1.0]))
def test_a_liar_is_dropped_and_named(
    names: list[str | None], kind: str, temperature: float
) -> None:
    request = replace(REQUEST, sampling=Sampling(temperature, seed=1))
    sources, liar = with_liar(names)
    found = decoder(kind, sources).generate(PROMPTS[0], request)
    wanted = decoder(kind, honest()).generate(PROMPTS[0], request)
    first_drop = next((s.index for s in found.steps if s.dropped), len(found.steps))
    assert said(found.steps[:first_drop]) == said(wanted.steps[:first_drop])
    if not any(step.dropped for step in found.steps):
        # A lie that changed nothing was about a guess, and the question was asked again.
        assert found.text == wanted.text
        assert not liar.num_lies or kind == "guessing"
        return
    assert found.warnings[0].startswith(f'Source "first" was dropped at step {first_drop}: ')
    assert found.stop_reason is not StopReason.SOURCES_FAILED
    assert all("first" not in step.sources for step in found.steps[first_drop + 1 :])


@settings(max_examples=8)
@given(lies, st.sampled_from(KINDS))
def test_where_failures_are_raised_a_liar_raises(names: list[str | None], kind: str) -> None:
    request = replace(REQUEST, on_source_error="raise")
    sources, liar = with_liar(names)
    wanted = decoder(kind, honest()).generate(PROMPTS[0], request)
    try:
        found = decoder(kind, sources).generate(PROMPTS[0], request)
    except SourceError as error:
        found, failed = error.generation, error
    else:
        failed = None
    assert wanted.text.startswith(found.text)
    assert (failed is not None) or not liar.num_lies or kind == "guessing"
    assert failed is None or str(failed).startswith('Source "first": ')


@settings(max_examples=8)
@given(lies, st.sampled_from(["batch", "beam", "answers"]))
def test_no_way_of_decoding_hangs_or_breaks(names: list[str | None], way: str) -> None:
    sources, _ = with_liar(names)
    fusion = SegmentDecoder(sources)
    if way == "batch":
        results: Any = fusion.generate_batch(PROMPTS, REQUEST)
        assert all(isinstance(each, Generation) for each in results)
    elif way == "beam":
        results = BeamSearch(fusion, 3).generate(PROMPTS[0], REQUEST)
        assert results
    else:
        results = rerank_answers(fusion, PROMPTS, REQUEST, with_fused=True)
        assert len(results) == len(PROMPTS)


@pytest.mark.parametrize("lie", [each for each in LIES if not each.startswith("raise")])
@pytest.mark.parametrize("kind", ["plain", "arithmetic"])
def test_every_lie_is_seen_in_every_place(lie: str, kind: str) -> None:
    """One lie in one call, for the first calls one after another."""
    wanted = decoder(kind, honest()).generate(PROMPTS[0], REQUEST)
    for place in range(3):
        sources, liar = with_liar([None] * place + [lie] * 40)
        found = decoder(kind, sources).generate(PROMPTS[0], REQUEST)
        assert liar.num_lies
        assert found.warnings
        dropped = next(step.index for step in found.steps if step.dropped)
        assert said(found.steps[:dropped]) == said(wanted.steps[:dropped])


def test_a_draft_without_picks_does_not_loop() -> None:
    class Empty(Wrapped):
        def draft(self, queries: Any, num_tokens: int) -> Any:
            answers = super().draft(queries, num_tokens)
            cut = dict.fromkeys(("log_probs", "picks", "pick_log_probs", "watched"), ())
            return [replace(answer, **cut) for answer in answers]

    first, second = honest()
    empty = replace(first, backend=Empty(first))
    found = SegmentDecoder([empty, second]).generate(PROMPTS[0], REQUEST)
    assert "drafted 0 tokens where 1 were asked for" in found.warnings[0]
    assert found.text == SegmentDecoder([second]).generate(PROMPTS[0], REQUEST).text


class Generous(Wrapped):
    """Drafts more than it is asked for, as the contract allows."""

    def draft(self, queries: Any, num_tokens: int) -> Any:
        return self.inner.draft(queries, num_tokens + 5)


@pytest.mark.parametrize("speculation", [True, False])
def test_a_draft_that_is_longer_than_asked_for_changes_nothing(speculation: bool) -> None:
    first, second = honest()
    settings_ = {} if speculation else {"speculation": None}
    plain = SegmentDecoder([first, second], **settings_)
    longer = SegmentDecoder([replace(first, backend=Generous(first)), second], **settings_)
    for prompt in PROMPTS:
        one, other = (each.generate(prompt, REQUEST) for each in (plain, longer))
        assert said(one.steps) == said(other.steps)


@pytest.mark.parametrize("name", ["vocab_size", "context_length"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "7", True])
def test_limits_that_are_no_numbers_are_refused(name: str, value: object) -> None:
    first, second = honest()
    odd = Wrapped(first)
    setattr(odd, name, value)
    with pytest.raises(UsageError, match=f'source "first" has {name} {value!r}'):
        SegmentDecoder([replace(first, backend=odd), second])
    odd = Wrapped(first)
    odd.vocab_size = None
    with pytest.raises(CoolfusionError, match="vocab_size None"):
        MixtureDecoder([replace(first, backend=odd), second])


class WithEnds:
    """A tokenizer that says something else of its end ids."""

    def __init__(self, tokenizer: Any, end_ids: object) -> None:
        self._tokenizer, self.end_ids = tokenizer, end_ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize(
    "end_ids",
    [*({each} for each in ("x", 1.5, True, None, math.nan)), [[1]], None, 5, "x"],
)
def test_end_ids_that_are_none(end_ids: object) -> None:
    """They were a TypeError of the first step, or never looked for."""
    toy = toy_source("a", ["Tom has 3 apples."])
    source = Source("a", WithEnds(toy.tokenizer, end_ids), toy.backend)
    for make in (SegmentDecoder, MixtureDecoder):
        with pytest.raises(UsageError, match="end_ids"):
            make([source])


def test_end_ids_without_a_row_are_never_drawn() -> None:
    """They were an IndexError of the first step."""
    toy = toy_source("a", ["Tom has 3 apples."])
    (end,) = toy.tokenizer.end_ids
    source = Source("a", WithEnds(toy.tokenizer, {end, 10**6, -1}), toy.backend)
    assert (
        SegmentDecoder([source]).generate("Tom").text == SegmentDecoder([toy]).generate("Tom").text
    )
