"""A beam of 1 is the fusion loop; a wider one keeps the best responses of all it has seen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coolfusion import Recipe, Request, Sampling, SegmentDecoder, Source, StopReason
from coolfusion.decoding.segments.beam import BeamSearch, Hypothesis
from coolfusion.decoding.segments.decoder import DEFAULT_SPECULATION
from coolfusion.decoding.segments.gates import Confidence
from coolfusion.decoding.segments.recipe import PRESETS
from coolfusion.decoding.segments.rerankers import (
    calibrated,
    leave_one_out,
    mean_nll,
    mixture,
)
from coolfusion.errors import SourceError, UsageError
from tests.decoding.segments.test_decoder import (
    PROMPTS,
    Failing,
    prompts,
    samplings,
    source_lists,
    toy,
)
from tests.strategies import said

RECIPES = [
    *PRESETS.values(),
    Recipe(gate=Confidence(0.9), hedge=0.5),
    Recipe(reranker=leave_one_out(calibrated(mean_nll))),
    Recipe(reranker=mixture),
]


def search(decoder: SegmentDecoder, prompt: str, request: Request, width: int) -> list[Hypothesis]:
    beam = BeamSearch(decoder, width)
    best = [Hypothesis(decoder.start(prompt, request))]
    while any(each.state.stop_reason is None for each in best):
        best = beam.step(best)
    return best


@settings(max_examples=40, deadline=None)
@given(source_lists(), prompts, samplings, st.sampled_from(RECIPES), st.integers(1, 40))
def test_a_beam_of_1_is_the_fusion_loop(
    sources: list[Source], prompt: str, sampling: Sampling, recipe: Recipe, limit: int
) -> None:
    request = Request(max_new_tokens=limit, sampling=sampling, stop=("12",))
    decoder = SegmentDecoder(sources, recipe)
    (found,) = BeamSearch(decoder, 1).generate(prompt, request)
    greedy = decoder.generate(prompt, request)
    assert (found.generation.text, found.generation.stop_reason, found.generation.stop_string) == (
        greedy.text,
        greedy.stop_reason,
        greedy.stop_string,
    )
    assert said(found.generation.steps) == said(greedy.steps)


@settings(max_examples=25, deadline=None)
@given(source_lists(), prompts, st.integers(2, 4), st.sampled_from([Recipe(), PRESETS["paper"]]))
def test_an_n_best_list(sources: list[Source], prompt: str, width: int, recipe: Recipe) -> None:
    found = BeamSearch(SegmentDecoder(sources, recipe), width).generate(
        prompt, Request(max_new_tokens=16)
    )
    assert 1 <= len(found) <= width
    assert len({each.generation.text for each in found}) == len(found)
    assert [each.cost for each in found] == sorted(each.cost for each in found)
    for each in found:
        steps = each.generation.steps
        assert each.generation.text == "".join(step.text for step in steps)
        costs = [step.candidates[step.winner].cost for step in steps if step.segment]
        assert all(cost is not None for cost in costs)
        ends = [step.candidates[step.winner].cost for step in steps[-1:] if not step.segment]
        costs += [cost for cost in ends if cost is not None]
        assert each.cost == pytest.approx(sum(costs) / len(costs) if costs else 0.0)
        if len(sources) == 1:
            assert len(found) == 1


@settings(max_examples=20, deadline=None)
@given(source_lists(min_size=2), prompts)
def test_a_beam_that_holds_everything_finds_the_best(sources: list[Source], prompt: str) -> None:
    decoder, request = SegmentDecoder(sources), Request(max_new_tokens=9, max_segment_tokens=4)
    # Every way to go on, by hand: each candidate of each contest, scored as the beam scores it.
    beam = BeamSearch(decoder, 10_000)
    best = search(decoder, prompt, request, 10_000)
    everything, open_ = [], [Hypothesis(decoder.start(prompt, request))]
    while open_:
        assume(len(everything) + len(open_) < 60)
        extended = beam.step([open_.pop()])
        everything += [each for each in extended if each.state.stop_reason is not None]
        open_ += [each for each in extended if each.state.stop_reason is None]
    lowest = min(each.cost for each in everything)
    assert best[0].cost == pytest.approx(lowest)
    assert {each.state.text for each in best} == {each.state.text for each in everything}


def test_a_wider_beam_leaves_the_greedy_way_where_that_is_cheaper() -> None:
    sources = [toy("one", "byte_bpe", (0, 3), 3), toy("two", "unigram", (1, 2, 4), 3)]
    decoder, request = SegmentDecoder(sources), Request(max_new_tokens=30)
    left = 0
    for prompt in PROMPTS:
        greedy = decoder.generate(prompt, request).text
        wide = BeamSearch(decoder, 6).generate(prompt, request)
        costs = {each.generation.text: each.cost for each in wide}
        assert wide[0].cost <= costs.get(greedy, math.inf)
        left += wide[0].generation.text != greedy
    assert left


def test_speculation_and_lanes_change_nothing() -> None:
    sources = [toy("one", "byte_bpe", (0, 1, 4)), toy("two", "bytes", (1, 2, 3))]
    for prompt in PROMPTS:
        found = [
            BeamSearch(SegmentDecoder(sources, speculation=speculation), 3).generate(
                prompt, Request(20)
            )
            for speculation in (None, DEFAULT_SPECULATION)
        ]
        one, other = ([(r.generation.text, r.cost) for r in each] for each in found)
        assert one == other


@settings(max_examples=10, deadline=None)
@given(source_lists(), prompts, st.integers(2, 3))
def test_several_samples_of_a_source(sources: list[Source], prompt: str, num_samples: int) -> None:
    request = Request(max_new_tokens=20, sampling=Sampling(1.3, seed=3))
    single = SegmentDecoder(sources)
    several = SegmentDecoder(sources, Recipe(num_samples=num_samples))
    one, more = (
        single.step(single.start(prompt, request))[1],
        several.step(several.start(prompt, request))[1],
    )
    texts = [candidate.text for candidate in more.candidates]
    if not (one.ends or more.ends):
        assert {candidate.text for candidate in one.candidates} <= set(texts)
    assert len(set(texts)) == len(texts)
    drafted = [sum(usage.num_drafted for usage in step.usage) for step in (one, more)]
    assert drafted[1] > drafted[0]
    again = several.generate(prompt, request)
    assert said(several.generate(prompt, request).steps) == said(again.steps)


def test_samples_of_one_source_compete() -> None:
    source = toy("one", "byte_bpe", (0, 1, 2, 3, 4), 2)
    request = Request(max_new_tokens=30, sampling=Sampling(1.5, seed=1))
    result = SegmentDecoder([source], Recipe(num_samples=4)).generate("Tom", request)
    assert result.stats.num_contested > 0
    assert result.stats.wins == {"one": sum(bool(step.drafters) for step in result.steps)}
    found = BeamSearch(SegmentDecoder([source], Recipe(num_samples=3)), 4).generate("Tom", request)
    assert len(found) == 4


@settings(max_examples=40)
@given(source_lists(min_size=2), prompts, st.integers(0, 30))
def test_a_source_that_fails_in_a_beam(sources: list[Source], prompt: str, after: int) -> None:
    broken = Failing(sources[0], after, RuntimeError("gone"))
    some = [replace(sources[0], backend=broken), *sources[1:]]
    found = BeamSearch(SegmentDecoder(some, speculation=None), 2).generate(prompt, Request(16))
    assert all(each.generation.stop_reason is not StopReason.SOURCES_FAILED for each in found)
    assert all(math.isfinite(each.cost) for each in found)


def test_failures_are_raised_where_asked() -> None:
    source = toy("one", "byte_bpe", (0, 1))
    broken = replace(source, backend=Failing(source, 2, RuntimeError("gone")))
    with pytest.raises(SourceError, match="gone"):
        BeamSearch(SegmentDecoder([broken], speculation=None), 2).generate(
            "Tom", Request(on_source_error="raise")
        )


def test_what_a_beam_refuses() -> None:
    sources = [toy("one", "byte_bpe", (0, 1))]
    with pytest.raises(UsageError, match="width"):
        BeamSearch(SegmentDecoder(sources), 0)
    with pytest.raises(UsageError, match="gate"):
        BeamSearch(SegmentDecoder(sources, Recipe(gate=Confidence(0.5))), 2)
    with pytest.raises(UsageError, match="num_samples"):
        Recipe(num_samples=0)
    with pytest.raises(UsageError, match="temperature"):
        SegmentDecoder(sources, Recipe(num_samples=2)).start("Tom")
