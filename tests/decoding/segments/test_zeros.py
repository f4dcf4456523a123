"""Probability zero: a source that excludes a candidate neither takes over nor goes unmentioned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import Request, SegmentDecoder, Source
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.answers.rerank import rerank
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import make_mixture
from coolfusion.decoding.scheduler import run
from coolfusion.decoding.segments.beam import BeamSearch
from coolfusion.decoding.segments.contest import score_table
from coolfusion.decoding.segments.end_rules import END_RULES, EndQuestion
from coolfusion.decoding.segments.gates import Confidence, LeadDraft
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.segments.rerankers import reranker_named
from coolfusion.decoding.segments.scoring import SegmentScores
from coolfusion.decoding.segments.zeros import FLOOR, excluding, floored, floored_end, voting
from coolfusion.decoding.source_view import SourceView
from coolfusion.decoding.source_weights import MAX_LOSS, read_prompt
from coolfusion.testing import toy_source
from coolfusion.types import Candidate, Usage
from tests.liars import masked
from tests.strategies import FAMILIES, STORIES, said, score_tables

TEXTS = ["Tom has 3 apples. He eats 1 apple.", "Ann has 5 pears. She eats 2 pears."]
REQUEST = Request(max_new_tokens=12)
RERANKERS = (
    *("mean_perplexity", "mean_nll", "bits_per_byte", "mixture", "lead(honest)"),
    *("calibrated(mean_nll)", "leave_one_out(mean_nll)", "without_outliers(mean_nll, 10)"),
    *("weighted(mean_nll, honest=1, masked=9)", "leave_one_out(calibrated(bits_per_byte))"),
)
inf, nan = math.inf, math.nan


def pair(family: str = "byte_bpe", said_alone: str = "!") -> list[Source]:
    """A source that can only say ``said_alone``, and an honest one."""
    loud = masked(toy_source("m", TEXTS), "masked", [said_alone])
    return [loud, toy_source("honest", TEXTS, family=family)]


@pytest.mark.parametrize("reranker", RERANKERS)
@pytest.mark.parametrize("end_rule", [*END_RULES])
def test_a_masked_source_does_not_take_over(reranker: str, end_rule: str) -> None:
    for family, scores in (("byte_bpe", "tokens"), ("unigram", "tokens"), ("characters", "bytes")):
        sources = pair(family)
        parts = {"reranker": reranker, "scores": scores}
        if end_rule != "compete":
            parts["end_rule"] = end_rule
        preset = "paper" if end_rule == "compete" else "default"
        honest = SegmentDecoder(sources[1:], make_recipe(preset))
        alone = honest.generate("Tom has", REQUEST)
        both = SegmentDecoder(sources, make_recipe(preset, **parts)).generate("Tom has", REQUEST)
        longer = honest.generate("Tom has", replace(REQUEST, max_new_tokens=60))
        assert both.text.startswith(alone.text)  # whose limit it reaches sooner
        assert longer.text.startswith(both.text)
        (warning,) = both.warnings
        assert warning.startswith('Source "masked" excluded something at step 0')
        assert "it gives probability 0 to" in warning
        assert {each.source for step in both.steps for each in step.zeros} == {"masked"}


@pytest.mark.parametrize("end_rule", [*END_RULES])
def test_a_source_that_is_certain_of_the_end_does_not_end_the_text(end_rule: str) -> None:
    preset = "paper" if end_rule == "compete" else "default"
    recipe = make_recipe(preset, end_rule=None if preset == "paper" else end_rule)
    honest = toy_source("honest", TEXTS)
    ender = masked(toy_source("m", TEXTS), "ender", ends=True)
    alone = SegmentDecoder([honest], recipe).generate("Tom has", REQUEST)
    both = SegmentDecoder([ender, honest], recipe).generate("Tom has", REQUEST)
    assert (both.text, both.stop_reason) == (alone.text, alone.stop_reason)
    assert any('"ender" excluded something' in warning for warning in both.warnings)


def test_a_lead_keeps_its_say() -> None:
    """Who asks for one source to judge alone gets that, and a word about what it excludes."""
    loud = SegmentDecoder(pair(), make_recipe(lead_source="masked")).generate("Tom has", REQUEST)
    assert set(loud.text) == {"!"}
    assert any("counted as 8 bits per byte" in warning for warning in loud.warnings)


@pytest.mark.parametrize("reranker", [each for each in RERANKERS if "honest" not in each])
def test_where_all_exclude_something_the_floor_decides(reranker: str) -> None:
    first = masked(toy_source("m", TEXTS), "first", ["!"])
    second = masked(toy_source("m", TEXTS), "second", ["?", " "])
    recipe = make_recipe(reranker=reranker, hedge=0.1, prior="prompt")
    found = SegmentDecoder([first, second], recipe).generate("Tom has", REQUEST)
    assert len(found.warnings) == 2
    costs = [c.cost for step in found.steps for c in step.candidates if c.cost is not None]
    assert costs
    assert all(map(math.isfinite, costs))
    best = BeamSearch(SegmentDecoder([first, second], recipe), 3).generate("Tom has", REQUEST)
    assert all(math.isfinite(each.cost) for each in best)


@settings(max_examples=5)
@given(st.sampled_from(FAMILIES), st.sampled_from(["!", " ", "T", "0", "\n"]), st.booleans())
def test_guesses_batches_and_branches_agree_where_there_are_zeros(
    family: str, said_alone: str, learns: bool
) -> None:
    parts = {"hedge": 0.2, "prior": "prompt", "reranker": "calibrated(mean_nll)"} if learns else {}
    sources = pair(family, said_alone)
    plain = SegmentDecoder(sources, make_recipe(**parts), speculation=None)
    wanted = [plain.generate(prompt, REQUEST) for prompt in ("Tom has", "Ann")]
    for decoder in (plain, SegmentDecoder(sources, make_recipe(**parts))):
        batch = decoder.generate_batch(["Tom has", "Ann"], REQUEST)
        assert [said(each.steps) for each in batch] == [said(each.steps) for each in wanted]
        assert [each.warnings for each in batch] == [each.warnings for each in wanted]
    (best,) = BeamSearch(plain, 1).generate("Tom has", REQUEST)
    assert said(best.generation.steps) == said(wanted[0].steps)


def scores(*log_likelihoods: float) -> SegmentScores:
    count = len(log_likelihoods)
    return SegmentScores(log_likelihoods, (1,) * count, (0.0,) * count, Usage())


CANDIDATES = [Candidate(" one", False, ("a",)), Candidate("!", False, ("b",))]


def test_reasons_name_what_is_excluded() -> None:
    ends = Candidate("", True, ("a",))
    given_ = {"a": scores(-1, -2, -3), "b": scores(-1, -inf, -2), "c": scores(-1, -1, -inf)}
    reasons = excluding([*CANDIDATES, ends], {**given_, "d": scores(nan, -1, -1)})
    assert reasons == {
        "b": "it gives probability 0 to the candidate '!'",
        "c": "it gives probability 0 to an end here",
        "d": "it gives probability 0 to the text so far",
    }


def test_who_votes() -> None:
    names, equal = ("a", "b", "c"), np.ones(3)
    assert voting(names, {}, equal) == ["a", "b", "c"]
    assert voting(names, {"b": ""}, equal) == ["a", "c"]
    assert voting(names, dict.fromkeys(names, ""), equal) == ["a", "b", "c"]
    assert voting(names, {"b": ""}, np.array([0.0, 1.0, 0.0])) == ["a", "b", "c"]


def test_the_floor_is_what_a_source_needs_that_knows_nothing() -> None:
    given_ = {"a": scores(-inf, -1.0), "b": scores(-2.0, -inf), "c": scores(-inf, -20.0)}
    table = score_table(CANDIDATES, given_)
    wanted = [[-4 * FLOOR, -2.0, -4 * 20.0], [-1.0, -FLOOR, -20.0]]
    assert table.log_likelihoods == pytest.approx(np.array(wanted))
    assert MAX_LOSS * math.log(2) == FLOOR


@given(score_tables())
def test_finite_scores_are_never_changed(table) -> None:
    assert np.isfinite(table.log_likelihoods).all()
    assert floored(table) is table.log_likelihoods


@given(score_tables(), st.data())
def test_a_zero_is_never_better_than_what_the_source_says_of_another(table, data) -> None:
    """The floor is finite, and per byte no source prefers what it excludes."""
    shape = table.log_likelihoods.shape
    flags = data.draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    zero = np.reshape(flags, shape)
    lower = np.where(zero, -inf, np.minimum(table.log_likelihoods, 0.0))
    found = floored(replace(table, log_likelihoods=lower))
    assert np.isfinite(found).all()
    assert (found[~zero] == lower[~zero]).all()
    rates = found / table.num_bytes[:, None]
    for k in range(shape[1]):
        if zero[:, k].any() and not zero[:, k].all():
            assert rates[zero[:, k], k].max() <= rates[~zero[:, k], k].min() + 1e-9
    for name in ("mean_nll", "mean_perplexity", "bits_per_byte", "mixture"):
        costs = reranker_named(name)(replace(table, log_likelihoods=found))
        assert not np.isnan(costs).any()


def test_an_end_question_of_zeros_has_an_answer() -> None:
    question = EndQuestion(np.array([-inf, -0.1]), np.array([[-0.5, -inf]]), np.array([0.5, 0.5]))
    found = floored_end(question)
    assert found.log_end == pytest.approx([-FLOOR, -0.1])
    assert found.log_first == pytest.approx(np.array([[-0.5, -FLOOR]]))
    finite = EndQuestion(np.array([-9.0, 0.0]), np.array([[-0.5, -99.0]]), np.array([0.5, 0.5]))
    assert floored_end(finite) is finite


def test_nothing_is_known_of_what_follows_the_impossible() -> None:
    """A response that one source excludes leaves it without an opinion, and without NaN."""
    impossible = LeadDraft("x", False, nan, 1)
    assert impossible.confidence == 0.0
    assert not Confidence(0.1)(impossible)
    assert Confidence(0.0)(impossible)
    loud, honest = pair("sentencepiece_bpe", "a")
    whole = SegmentDecoder([honest, loud], make_recipe(gate=0.9)).generate("Tom has", REQUEST)
    assert whole.text == SegmentDecoder([honest]).generate("Tom has", REQUEST).text


def test_a_prompt_of_probability_zero_is_read_at_the_floor() -> None:
    loud, _ = pair()
    view = SourceView(0, loud, loud.tokenizer.encode_prompt("Tom has"))
    assert run(read_prompt(view), [AnswerCache(loud.backend)]).bits_per_byte == MAX_LOSS


def test_answers_are_ranked_by_those_who_exclude_none() -> None:
    sources = pair()
    entries = [Candidate("!", False, ("masked",)), Candidate(" 3 apples.", False, ("honest",))]
    (ranking,) = rerank(sources, ["Tom has"], [entries])
    assert ranking.text == " 3 apples."
    assert [each.source for each in ranking.zeros] == ["masked"]
    assert ranking.candidates[1].log_likelihoods[0] == -inf
    (alone,) = rerank(sources, ["Tom has"], [entries], weights={"masked": 1.0})
    assert "8 bits per byte" in alone.zeros[0].reason


def test_mixtures_say_that_nothing_is_left() -> None:
    first = masked(toy_source("m", TEXTS), "first", ["!"])
    second = masked(toy_source("m", TEXTS), "second", ["?"])
    decoder = MixtureDecoder([first, second], make_mixture("geometric"))
    found = decoder.generate("Tom has", REQUEST)
    assert found.text == ""
    assert all("no outcome left" in warning for warning in found.warnings)
    assert len(found.warnings) == 2


@pytest.mark.parametrize("route", ["tokens", "bytes"])
def test_a_product_of_experts_says_who_excludes_what(route: str) -> None:
    """That is the formula of the rule, and not done in silence."""
    loud, honest = pair()
    same = replace(honest, tokenizer=loud.tokenizer)
    for rule, text in (("geometric", "!!!"), ("top_k_union(400)", None)):
        if text is None and route == "bytes":
            continue
        decoder = MixtureDecoder([loud, same], make_mixture(rule, route=route))
        found = decoder.generate("Tom has", Request(max_new_tokens=3))
        told = [warning for warning in found.warnings if "what another source finds" in warning]
        assert bool(told) == (text is not None)
        if text is not None:
            assert found.text == text
            assert told[0].startswith('Source "masked" excluded something at step 0 and 2 more')


def test_a_source_that_only_draws_a_control_token_is_named() -> None:
    """As of a padded id that comes out on top: it is silent, and a warning says so."""
    honest = toy_source("honest", STORIES)
    raw = toy_source("m", STORIES, family="sentencepiece_bpe")
    control = next(
        t
        for t in range(raw.backend.vocab_size)
        if raw.tokenizer.piece(t) is None and t not in raw.tokenizer.end_ids
    )
    mute = masked(raw, "mute", [])
    mute.backend.ids = [control]
    both = SegmentDecoder([mute, honest]).generate("Tom has", REQUEST)
    assert SegmentDecoder([honest]).generate("Tom has", REQUEST).text.startswith(both.text)
    assert any(
        warning.startswith('Source "mute" offered nothing at step 0')
        and f"control token {control}" in warning
        for warning in both.warnings
    )
