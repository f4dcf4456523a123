"""One step's decisions, by hand: merging, ties, who is asked about the end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coolfusion.decoding.segments.contest import SegmentStep, leads, merge, rerank
from coolfusion.decoding.segments.drafting import Draft
from coolfusion.decoding.segments.recipe import PRESETS, Recipe, make_recipe
from coolfusion.decoding.segments.rerankers import bits_per_byte, leave_one_out, mean_nll
from coolfusion.decoding.segments.scoring import SegmentScores
from coolfusion.errors import UsageError
from coolfusion.types import Usage


def draft(
    text: str, *, ends: bool = False, p_end: float = 0.1, withdrawn: str | None = None
) -> Draft:
    return Draft(text, ends, math.log(p_end), withdrawn, Usage(num_drafted=2))


def scores(*log_likelihoods: float) -> SegmentScores:
    return SegmentScores(
        log_likelihoods, (1,) * len(log_likelihoods), log_likelihoods, Usage(num_scored=2)
    )


def step_of(
    drafts: dict[str, Draft],
    table: dict[str, SegmentScores],
    recipe: Recipe,
    weights: dict[str, float] | None = None,
) -> SegmentStep:
    step = SegmentStep(tuple(drafts), drafts=drafts, weights=weights or {})
    merge(step, recipe)
    step.scores.update(table)
    rerank(step, recipe)
    return step


def test_equal_drafts_are_one_candidate_and_need_no_scores() -> None:
    step = step_of({"a": draft(" x"), "b": draft(" x")}, {}, Recipe())
    assert [(c.text, c.drafters) for c in step.candidates] == [(" x", ("a", "b"))]
    assert not step.is_contest
    assert step.winner == 0


def test_the_lowest_cost_wins_and_ties_go_to_the_earlier_source() -> None:
    drafts = {"a": draft(" x"), "b": draft(" y")}
    judged = step_of(drafts, {"a": scores(-1.0, -3.0), "b": scores(-4.0, -1.0)}, Recipe())
    assert [c.cost for c in judged.candidates] == [2.5, 2.0]
    assert judged.winner == 1
    tied = step_of(drafts, {"a": scores(-1.0, -2.0), "b": scores(-2.0, -1.0)}, Recipe())
    assert tied.winner == 0


def test_the_papers_average_is_of_perplexities() -> None:
    drafts = {"a": draft(" x"), "b": draft(" y")}
    table = {"a": scores(-math.log(3), -math.log(2)), "b": scores(-math.log(4), -math.log(200))}
    step = step_of(drafts, table, PRESETS["paper"])
    assert [c.cost for c in step.candidates] == pytest.approx([3.5, 101.0])


def test_bytes_are_counted_and_not_characters() -> None:
    drafts = {"a": draft(" \u00e9"), "b": draft(" \u65e5")}
    table = {"a": scores(-3.0, -4.0), "b": scores(-3.0, -4.0)}
    step = step_of(drafts, table, Recipe(reranker=bits_per_byte))
    assert [c.cost for c in step.candidates] == pytest.approx(
        [3 / 3 / math.log(2), 4 / 4 / math.log(2)]
    )


def test_judges_weigh_what_they_were_taught_to_and_may_leave_their_own_drafts() -> None:
    drafts = {"a": draft(" x"), "b": draft(" y")}
    table = {"a": scores(-1.0, -3.0), "b": scores(-4.0, -2.0)}
    taught = step_of(drafts, table, Recipe(), {"a": 0.9, "b": 0.1})
    assert [c.cost for c in taught.candidates] == pytest.approx([1.3, 2.9])
    others = step_of(drafts, table, Recipe(reranker=leave_one_out(mean_nll)))
    assert [c.cost for c in others.candidates] == pytest.approx([4.0, 3.0])
    assert others.winner == 1


def test_usage_is_of_drafts_and_of_scores() -> None:
    drafts = {"a": draft(" x"), "b": draft(" y")}
    step = step_of(drafts, {"a": scores(-1.0, -2.0)}, Recipe())
    assert step.usage == (Usage(num_drafted=2, num_scored=2), Usage(num_drafted=2))
    step.spend("b", Usage(num_scored=5))
    assert step.usage[1] == Usage(num_drafted=2, num_scored=5)


def test_what_has_no_cost_does_not_win() -> None:
    drafts, table = {"a": draft(" x"), "b": draft(" y")}, {"a": scores(-1.0, -3.0)}
    one = step_of(drafts, table, Recipe(reranker=lambda _: np.array([math.nan, 3.0])))
    assert one.winner == 1
    none = step_of(drafts, table, Recipe(reranker=lambda _: np.full(2, math.nan)))
    assert none.winner == 0


def test_withdrawn_drafts_say_why() -> None:
    step = step_of({"a": draft("", withdrawn="no luck"), "b": draft(" y")}, {}, Recipe())
    assert [(gone.source, gone.reason) for gone in step.withdrawn] == [("a", "no luck")]
    assert step.candidates[step.winner or 0].drafters == ("b",)


@pytest.mark.parametrize(("p_goes_on", "ends"), [(0.6, True), (0.01, False)])
def test_an_end_is_put_to_all(p_goes_on: float, ends: bool) -> None:
    drafts = {"a": draft("", ends=True, p_end=0.7), "b": draft(" y", p_end=p_goes_on)}
    step = step_of(drafts, {"a": scores(-1.0), "b": scores(-1.0)}, Recipe())
    assert step.candidates[0].ends is ends
    assert step.log_end == pytest.approx((math.log(0.7), math.log(p_goes_on)))
    assert bool(step.withdrawn) is not ends


def test_a_lead_answers_the_end_question_alone() -> None:
    drafts = {"a": draft("", ends=True, p_end=0.7), "b": draft(" y", p_end=0.01)}
    table = {"a": scores(-1.0), "b": scores(-1.0)}
    assert step_of(drafts, table, make_recipe(lead_source="a")).candidates[0].ends
    assert not step_of(drafts, table, make_recipe(lead_source="b")).candidates[0].ends
    with pytest.raises(UsageError, match="judges alone"):
        make_recipe(lead_source="a", weights={"a": 1.0})


def test_under_the_papers_rule_an_end_is_a_candidate() -> None:
    drafts = {"a": draft(" x", ends=True), "b": draft(" x")}
    step = SegmentStep(tuple(drafts), drafts=drafts)
    merge(step, PRESETS["paper"])
    assert [(c.text, c.ends) for c in step.candidates] == [(" x", True), (" x", False)]


def test_weights_that_were_learnt_multiply_those_of_the_end_question() -> None:
    """Odds of 6 to 4 for the end and 7 to 3 against it."""
    drafts = {"a": draft("", ends=True, p_end=0.6), "b": draft(" y", p_end=0.3)}
    table, recipe = {"a": scores(-1.0), "b": scores(-1.0)}, make_recipe(weights={"a": 1, "b": 1})
    assert not step_of(drafts, table, recipe).candidates[0].ends
    assert step_of(drafts, table, recipe, {"a": 0.9, "b": 0.1}).candidates[0].ends
    assert step_of(drafts, table, Recipe(), {"a": 0.9, "b": 0.1}).candidates[0].ends
    against = make_recipe(weights={"a": 1, "b": 9})
    assert not step_of(drafts, table, against, {"a": 0.9, "b": 0.1}).candidates[0].ends


def test_a_source_without_weight_is_not_heard_about_the_end() -> None:
    """The first token of b's draft is likelier than the end to b alone."""
    drafts = {"a": draft("", ends=True, p_end=0.7), "b": draft(" y", p_end=0.01)}
    table = {"a": scores(math.log(0.1)), "b": scores(math.log(0.9))}
    ending, going_on = (
        make_recipe(lead_source=lead, end_rule="token_contest") for lead in ("a", "b")
    )
    assert step_of(drafts, table, ending).candidates[0].ends
    assert not step_of(drafts, table, going_on).candidates[0].ends


def test_the_heaviest_source_leads() -> None:
    learnt = SegmentStep(("a", "b", "c"), weights={"a": 0.2, "b": 0.5, "c": 0.3})
    assert leads(learnt, Recipe()) == ["b", "c", "a"]
    assert leads(learnt, make_recipe(weights={"a": 9, "b": 1, "c": 1})) == ["a", "b", "c"]
    assert leads(SegmentStep(("a", "b", "c")), Recipe()) == ["a", "b", "c"]
    assert leads(SegmentStep(("a", "b")), make_recipe(lead_source="b")) == ["b", "a"]
