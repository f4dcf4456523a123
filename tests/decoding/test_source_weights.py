"""Weights learnt from the prompt and from the response: on the simplex, with bounded regret."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import Query, Recipe, Request, SegmentDecoder, Source
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.source_weights import (
    FLOOR,
    MAX_LOSS,
    PromptPrior,
    hedged,
    log_normalized,
    on_simplex,
    prior_named,
    uniform,
)
from coolfusion.errors import UsageError
from coolfusion.testing import toy_source
from tests.decoding.segments.test_decoder import PROMPTS, Failing, source_lists, toy
from tests.strategies import STORIES, said

losses = st.lists(
    st.floats(-3.0, 20.0) | st.just(math.nan) | st.just(math.inf), min_size=3, max_size=3
)


@given(st.lists(losses, max_size=30), st.floats(0.0, 100.0))
def test_weights_stay_on_the_simplex(rounds: list[list[float]], eta: float) -> None:
    log_weights = log_normalized(np.zeros(3))
    for each in rounds:
        log_weights = hedged(log_weights, each, eta)
        assert np.exp(log_weights).sum() == pytest.approx(1.0)
        weights = on_simplex(log_weights)
        assert weights.sum() == pytest.approx(1.0)
        assert (weights > FLOOR / 4).all()


@given(losses)
def test_eta_0_learns_nothing(some: list[float]) -> None:
    start = log_normalized(np.log([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(hedged(start, some, 0.0), start, atol=1e-12)


def test_equal_weights_sum_to_1() -> None:
    assert uniform(4).tolist() == [0.25] * 4


def test_hedge_by_hand() -> None:
    """Losses are between 0 and 8; of one that is not a number nothing good is assumed."""
    start = log_normalized(np.zeros(2))
    for given_ones, counted in [
        ((1.0, 3.0), (1.0, 3.0)),
        ((20.0, -3.0), (8.0, 0.0)),
        ((math.inf, 8.0), (8.0, 8.0)),
        ((math.nan, 0.0), (8.0, 0.0)),
    ]:
        raw = np.exp(-0.1 * np.array(counted))
        np.testing.assert_allclose(
            np.exp(hedged(start, given_ones, 0.1)), raw / raw.sum(), rtol=1e-12
        )
    uneven = log_normalized(np.log([0.8, 0.2]))
    raw = np.array([0.8 * math.exp(-0.5 * 2), 0.2 * math.exp(-0.5 * 1)])
    np.testing.assert_allclose(np.exp(hedged(uneven, (2.0, 1.0), 0.5)), raw / raw.sum())


def test_a_prompt_nothing_is_known_of_counts_as_the_mean_of_the_others() -> None:
    raw = np.exp([-1.0, -3.0, -2.0])
    found = np.exp(PromptPrior().log_weights([1.0, 3.0, math.nan]))
    np.testing.assert_allclose(found, raw / raw.sum())


def test_a_prompt_is_read_by_its_bytes() -> None:
    """Not by its tokens: a tokenizer with long tokens needs few of them."""
    texts = ["Grüße aus Köln. Grüße aus Bonn."] * 3
    sources = [
        toy_source("long", texts, family="byte_bpe", order=2, vocab_size=300),
        toy_source("short", texts, family="bytes", order=2),
    ]
    decoder = SegmentDecoder(sources, Recipe(prior=PromptPrior()))
    state = decoder.start("Köln aus Grüße")
    after, _ = decoder.step(state)
    bits = []
    for source, prompt in zip(sources, state.prompts, strict=True):
        (scores,) = source.backend.score([Query(prompt[:1], prompt[1:])])
        num_bytes = sum(len(source.tokenizer.piece(token) or b"") for token in prompt[1:])
        bits.append(-sum(scores.log_probs) / math.log(2) / num_bytes)
    assert len(state.prompts[0]) < len(state.prompts[1])
    expected = np.exp(-(np.array(bits) - min(bits)))
    np.testing.assert_allclose(np.exp(after.log_weights), expected / expected.sum(), rtol=1e-6)


@given(st.integers(0, 999), st.integers(1, 300), st.integers(2, 6), st.floats(0.01, 2.0))
def test_regret_is_bounded(seed: int, num_rounds: int, num_sources: int, eta: float) -> None:
    noise = np.random.default_rng(seed)
    table = noise.uniform(0, MAX_LOSS, (num_rounds, num_sources))
    if seed % 3 == 0:  # the losses of one that is always wrong just where it is trusted
        table = np.eye(num_sources)[np.arange(num_rounds) % num_sources] * MAX_LOSS
    log_weights, suffered = log_normalized(np.zeros(num_sources)), 0.0
    for row in table:
        suffered += float(np.exp(log_weights) @ row)
        log_weights = hedged(log_weights, row, eta)
    bound = math.log(num_sources) / eta + eta * num_rounds * MAX_LOSS**2 / 8
    assert suffered - table.sum(axis=0).min() <= bound + 1e-9


@given(st.lists(st.floats(0, 12), min_size=2, max_size=4), st.floats(0.01, 50.0))
def test_the_prior_is_a_softmax(bits: list[float], temperature: float) -> None:
    weights = np.exp(PromptPrior(temperature).log_weights(bits))
    expected = np.exp(-(np.array(bits) - min(bits)) / temperature)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-9, atol=1e-300)
    nothing = PromptPrior(temperature).log_weights([math.nan] * 3)
    np.testing.assert_allclose(np.exp(nothing), 1 / 3)
    joined = np.exp(PromptPrior(temperature).log_weights([*bits, math.nan]))
    assert min(joined[:-1]) <= joined[-1] + 1e-12
    assert joined[-1] <= max(joined[:-1]) + 1e-12


@settings(max_examples=30)
@given(source_lists(min_size=2), st.sampled_from(PROMPTS))
def test_a_prior_of_equal_weights_changes_nothing(sources: list[Source], prompt: str) -> None:
    request = Request(max_new_tokens=24)
    flat = SegmentDecoder(sources, Recipe(prior=PromptPrior(1e15))).generate(prompt, request)
    plain = SegmentDecoder(sources).generate(prompt, request)
    assert flat.text == plain.text
    none = SegmentDecoder(sources, Recipe(hedge=0.0)).generate(prompt, request)
    assert said(none.steps) == said(plain.steps)


def test_the_prior_is_of_the_prompt_s_bits_per_byte() -> None:
    knows = toy_source("knows", STORIES, family="characters", order=5)
    lost = toy_source("lost", ["xyz zyx"], family="bytes", order=2)
    decoder = SegmentDecoder([lost, knows], Recipe(prior=PromptPrior(0.5)))
    state = decoder.start("Tom has 3 apples.")
    after, step = decoder.step(state)
    assert state.log_weights == ()
    bits = []
    for source, prompt in zip(decoder.sources, state.prompts, strict=True):
        (scores,) = source.backend.score([Query(prompt[:1], prompt[1:])])
        bits.append(-sum(scores.log_probs) / math.log(2) / len("om has 3 apples."))
    expected = np.exp(-(np.array(bits) - min(bits)) / 0.5)
    np.testing.assert_allclose(np.exp(after.log_weights), expected / expected.sum(), rtol=1e-6)
    assert after.log_weights[1] > after.log_weights[0]
    assert step.usage[0].num_scored >= len("om has 3 apples.")


def test_a_prompt_of_one_token_says_nothing() -> None:
    sources = [toy("one", "bytes", (0, 1)), toy("two", "bytes", (1, 2))]
    decoder = SegmentDecoder(sources, Recipe(prior=PromptPrior()))
    after, _ = decoder.step(decoder.start("T"))
    np.testing.assert_allclose(np.exp(after.log_weights), 0.5)


def test_hedge_follows_the_costs_of_what_was_committed() -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    decoder = SegmentDecoder(sources, Recipe(hedge=0.2))
    state = decoder.start("Tom has", Request(max_new_tokens=40))
    expected = np.full(2, 0.5)
    num_updates = 0
    while state.stop_reason is None:
        state, step = decoder.step(state)
        won = step.candidates[step.winner] if step.winner is not None else None
        if won and won.log_likelihoods and step.segment:
            bits = -np.array(won.log_likelihoods) / (len(won.text.encode()) * math.log(2))
            expected *= np.exp(-0.2 * np.clip(bits, 0, MAX_LOSS))
            expected /= expected.sum()
            num_updates += 1
        if num_updates:
            np.testing.assert_allclose(np.exp(state.log_weights), expected, rtol=1e-9)
        else:
            assert state.log_weights == ()
    assert num_updates > 1


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_source_that_fails_while_it_is_weighed(after: int) -> None:
    first, second = toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))
    broken = Source("one", first.tokenizer, Failing(first, after, RuntimeError("gone")))
    recipe = Recipe(prior=PromptPrior(), hedge=1.0)
    result = SegmentDecoder([broken, second], recipe, speculation=None).generate("Tom has")
    assert "gone" in result.warnings[0]
    assert result.text == "".join(step.segment for step in result.steps)
    if after == 0:
        assert result.text == SegmentDecoder([second]).generate("Tom has").text


def test_names_of_priors_and_what_excludes_them() -> None:
    assert prior_named("prompt") == PromptPrior()
    assert prior_named("prompt(0.5)") == PromptPrior(0.5)
    for wrong in ("posterior", "prompt(0)", "prompt(x)", "prompt(1, 2)", "prompt=1"):
        with pytest.raises(UsageError, match="prior"):
            prior_named(wrong)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(UsageError, match="hedge"):
            make_recipe(hedge=wrong)
    with pytest.raises(UsageError, match="judges alone"):
        make_recipe(lead_source="a", hedge=0.1)
    with pytest.raises(UsageError, match="judges alone"):
        make_recipe(reranker="lead(a)", prior="prompt")
