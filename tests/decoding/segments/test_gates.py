"""Gates and budgets: when the lead source goes on alone, and what that saves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import Generation, Recipe, Request, Sampling, SegmentDecoder, Source
from coolfusion.decoding.segments.gates import (
    Budget,
    Confidence,
    LeadDraft,
    budget_named,
    gate_named,
)
from coolfusion.decoding.segments.recipe import PRESETS, make_recipe
from coolfusion.decoding.segments.rerankers import bits_per_byte, calibrated, leave_one_out
from coolfusion.decoding.segments.speculation import Speculation
from coolfusion.decoding.source_weights import PromptPrior
from coolfusion.errors import UsageError
from tests.decoding.segments.test_decoder import PROMPTS, Failing, samplings, source_lists, toy
from tests.strategies import said

BUDGETS = [None, Budget(0), Budget(2), Budget(max_scored_tokens=15), Budget(3, 20)]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes with everything that depends on what a response has been through."""
    return replace(
        PRESETS[draw(st.sampled_from(sorted(PRESETS)))],
        reranker=draw(
            st.sampled_from([calibrated(bits_per_byte), leave_one_out(PRESETS["paper"].reranker)])
        ),
        weights=draw(st.sampled_from([{}, {"bytes": 2.0, "characters": 0.5}])),
        gate=draw(st.sampled_from([None, Confidence(0.5), Confidence(0.9), Confidence(0.99)])),
        budget=draw(st.sampled_from(BUDGETS)),
        prior=draw(st.sampled_from([None, PromptPrior(), PromptPrior(0.1)])),
        hedge=draw(st.sampled_from([0.0, 0.3, 50.0])),
    )


def answers(sources: list[Source], recipe: Recipe, **limits) -> list[Generation]:
    request = Request(**{"max_new_tokens": 20, **limits})
    return SegmentDecoder(sources, recipe).generate_batch(PROMPTS, request)


@settings(max_examples=20, deadline=None)
@given(source_lists(min_size=2), recipes(), samplings, st.integers(1, 3), st.booleans())
def test_no_way_of_decoding_changes_a_response(
    sources: list[Source], recipe: Recipe, sampling: Sampling, rows: int, repeats: bool
) -> None:
    if repeats and not sampling.is_greedy:
        recipe = replace(recipe, num_samples=2)
    request = Request(max_new_tokens=24, sampling=sampling)
    quick = SegmentDecoder(sources, recipe, speculation=Speculation())
    plain = SegmentDecoder(sources, recipe, speculation=None)
    together = quick.generate_batch(PROMPTS[:3], request, max_rows=rows)
    for prompt, result in zip(PROMPTS, together, strict=False):
        alone = plain.generate(prompt, request)
        assert (result.text, result.stop_reason) == (alone.text, alone.stop_reason)
        assert said(result.steps) == said(alone.steps)
    # A state is all there is to know: any decoder goes on from it.
    state = plain.start(PROMPTS[0], request)
    steps = []
    while state.stop_reason is None:
        state, step = SegmentDecoder(sources, recipe).step(state)
        steps.append(step)
    assert said(steps) == said(together[0].steps)


@settings(max_examples=10, deadline=None)
@given(source_lists(min_size=2), samplings)
def test_a_gate_that_lets_nothing_pass_changes_nothing(
    sources: list[Source], sampling: Sampling
) -> None:
    shut, none = (
        answers(sources, Recipe(gate=g), sampling=sampling) for g in (lambda _: False, None)
    )
    assert [said(each.steps) for each in shut] == [said(each.steps) for each in none]


@settings(max_examples=20, deadline=None)
@given(source_lists(min_size=2), samplings, st.booleans())
def test_an_open_gate_and_no_budget_leave_the_lead_alone(
    sources: list[Source], sampling: Sampling, by_weight: bool
) -> None:
    lead = sources[-1].name if by_weight else sources[0].name
    weights = {lead: 2.0, **{s.name: 1.0 for s in sources if s.name != lead}} if by_weight else {}
    gated = answers(sources, Recipe(weights=weights, gate=Confidence(0.0)), sampling=sampling)
    spent = answers(sources, Recipe(weights=weights, budget=Budget(0)), sampling=sampling)
    for one, other in zip(gated, spent, strict=True):
        # Where the lead has nothing to offer, a gate has the others draft, contest or end.
        free = all(step.drafters == (lead,) for step in one.steps)
        assert not free or one.text == other.text
        assert all(not step.contested for step in other.steps)
        for step in one.steps:
            if step.drafters == (lead,) and not step.contested and not step.withdrawn:
                spending = dict(zip(step.sources, step.usage, strict=True))
                assert all(u.num_drafted == 0 for n, u in spending.items() if n != lead)
                assert all(u.num_scored == 0 for u in spending.values())


def test_a_gated_source_is_itself() -> None:
    one, two = toy("one", "byte_bpe", (0, 1, 3)), toy("two", "byte_bpe", (1, 2))

    def said_by(sources: list[Source], recipe: Recipe) -> list[tuple[str, object]]:
        found = answers(sources, recipe, max_new_tokens=120, stop=("eats",))
        return [(each.text, each.stop_reason) for each in found]

    alone = said_by([one], Recipe())
    assert said_by([one, two], Recipe(gate=Confidence(0.0))) == alone
    assert said_by([one, two], Recipe(budget=Budget(0))) == alone
    second = make_recipe(weights={"one": 1.0, "two": 1.5}, gate=0)
    assert said_by([one, two], second) == said_by([two], Recipe())


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_a_budget_is_of_one_response(limit: int) -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    free = answers(sources, Recipe())
    for result, unlimited in zip(answers(sources, Recipe(budget=Budget(limit))), free, strict=True):
        scored = [any(usage.num_scored for usage in step.usage) for step in result.steps]
        assert sum(scored) <= limit
        after = [i + 1 for i, was in enumerate(scored) if was][limit - 1 :] if limit else [0]
        if after:
            assert said(result.steps[: after[0]]) == said(unlimited.steps[: after[0]])
    assert max(each.stats.num_contested for each in free) > 2


def test_a_budget_of_tokens_is_exceeded_by_one_contest_at_most() -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    spent = []
    for result in answers(sources, Recipe(budget=Budget(max_scored_tokens=20))):
        contests = [sum(usage.num_scored for usage in step.usage) for step in result.steps]
        assert sum([each for each in contests if each][:-1]) < 20
        spent.append(sum(contests))
    assert max(spent) >= 20


def test_a_gate_saves_the_drafts_of_the_others() -> None:
    sources = [toy("one", "byte_bpe", (0, 3), 3), toy("two", "unigram", (1, 2, 4), 3)]
    drafted = []
    for threshold in (2.0, 0.95, 0.5, 0.0):
        recipe = Recipe(gate=lambda draft, least=threshold: draft.confidence >= least)
        found = answers(sources, recipe)
        drafted.append(sum(each.stats.usage["two"].num_drafted for each in found))
    assert drafted[0] > drafted[1] > drafted[2] > drafted[3] == 0


def test_the_gate_reads_what_a_score_table_would_hold() -> None:
    seen: list[LeadDraft] = []
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    recipe = Recipe(gate=lambda draft: bool(seen.append(draft)))
    result = SegmentDecoder(sources, recipe).generate("Tom has", Request(max_new_tokens=40))
    contested = 0
    for draft, step in zip(seen, result.steps, strict=True):
        assert 0 < draft.confidence <= 1
        for candidate in step.candidates:
            if candidate.text == draft.text and candidate.log_likelihoods and candidate.num_tokens:
                assert draft.log_likelihood == pytest.approx(candidate.log_likelihoods[0])
                assert draft.num_tokens == candidate.num_tokens[0]
                contested += 1
    assert contested


@pytest.mark.parametrize("recipe", [Recipe(gate=Confidence(0.0)), Recipe(budget=Budget(0))])
@pytest.mark.parametrize("after", [0, 1, 3, 8])
def test_another_source_leads_when_the_lead_fails(recipe: Recipe, after: int) -> None:
    first, second = toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))
    broken = replace(first, backend=Failing(first, after, RuntimeError("gone")))
    result = SegmentDecoder([broken, second], recipe, speculation=None).generate(PROMPTS[0])
    assert result.text == "".join(step.segment for step in result.steps)
    dropped = [step.index for step in result.steps if step.dropped]
    assert len(dropped) == 1
    assert all(step.drafters == ("two",) for step in result.steps[dropped[0] + 1 :])


def test_what_reaches_a_limit() -> None:
    assert Confidence(1.0)(LeadDraft("x", False, 0.0, 3))
    assert not Confidence(0.51)(LeadDraft("x", False, math.log(0.25), 2))
    assert Confidence(0.49)(LeadDraft("x", False, math.log(0.25), 2))
    tokens, contests = Budget(max_scored_tokens=15), Budget(2)
    assert [tokens.is_spent(9, scored) for scored in (14, 15, 16)] == [False, True, True]
    assert [contests.is_spent(num, 99) for num in (1, 2, 3)] == [False, True, True]
    assert Budget(2, 15).is_spent(2, 0)
    assert Budget(2, 15).is_spent(0, 15)
    assert not Budget().is_spent(99, 99)
    assert Budget(0).is_spent(0, 0)


def test_confidence_is_a_geometric_mean() -> None:
    draft = LeadDraft(" x", False, math.log(0.5) + math.log(0.9), 2)
    assert draft.confidence == pytest.approx(math.sqrt(0.45))
    assert Confidence(0.67)(draft)
    assert not Confidence(0.68)(draft)


def test_names_of_gates_and_budgets() -> None:
    assert gate_named("0.9") == gate_named(0.9) == Confidence(0.9)
    assert budget_named(20) == budget_named("20") == Budget(20)
    assert budget_named("tokens(500)") == Budget(max_scored_tokens=500)
    for wrong in ("much", "1.5", "nan", -0.1):
        with pytest.raises(UsageError, match="gate"):
            gate_named(wrong)
    for wrong in ("much", "1.5", "tokens", "tokens(x)", -1):
        with pytest.raises(UsageError, match="budget"):
            budget_named(wrong)
