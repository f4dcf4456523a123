"""What a step of a mixture records, by hand, on sources that write given bytes."""

from __future__ import annotations

import math

import pytest

from coolfusion import Generation, MixtureDecoder, Request, Source
from coolfusion.backends.ngram import NgramBackend
from coolfusion.decoding.mixture.options import make_mixture
from tests.decoding.mixture.test_token_route import Losing
from tests.decoding.segments.test_drafting import END, ID_OF, PROMPT, TOKENIZER

STRENGTH = 0.5


def source(name: str, *texts: str) -> Source:
    """A source that has seen these texts after the prompt, each ending."""
    prompt = TOKENIZER.encode_prompt(PROMPT)
    ids = [(*prompt, *(ID_OF[bytes([b])] for b in text.encode()), END) for text in texts]
    return Source(name, TOKENIZER, NgramBackend(ids, 257, order=16, strength=STRENGTH))


def mixed(
    *sources: Source, weights: dict[str, float], rule: str = "arithmetic", **limits: int
) -> Generation:
    request = Request(**{"max_new_tokens": 20, **limits})
    return MixtureDecoder(sources, make_mixture(rule, weights=weights)).generate(PROMPT, request)


def test_a_drafter_would_have_written_every_token_of_a_step() -> None:
    """The letters begin with one byte, and the second tells them apart."""
    one, two = source("one", "\u00e9"), source("two", "\u00e8")
    result = mixed(one, two, weights={"one": 3, "two": 1})
    step = result.steps[0]
    assert (step.segment, step.drafters) == ("\u00e9", ("one",))
    assert step.candidates[0].num_tokens == (2, 2)
    same = mixed(one, source("two", "\u00e9"), weights={"one": 3, "two": 1})
    assert same.steps[0].drafters == ("one", "two")


def test_a_step_costs_what_the_mixture_gave_its_tokens() -> None:
    one, two = source("one", "ab", "ab", "ac"), source("two", "ad", "ab")
    alone = [mixed(each, weights={each.name: 1}).steps[0].candidates[0] for each in (one, two)]
    step = mixed(one, two, weights={"one": 3, "two": 1}).steps[0]
    assert (step.segment, alone[0].text, alone[1].text) == ("a", "a", "a")
    said = [math.exp(each.log_likelihoods[0]) for each in alone]
    assert [math.exp(value) for value in step.candidates[0].log_likelihoods] == pytest.approx(said)
    assert step.candidates[0].cost == pytest.approx(-math.log(0.75 * said[0] + 0.25 * said[1]))


def test_a_step_counts_its_own_tokens() -> None:
    result = mixed(source("one", "ab\u65e5c"), weights={"one": 1})
    assert [step.candidates[0].num_tokens for step in result.steps] == [
        (1,),
        (1,),
        (3,),
        (1,),
        (0,),
    ]
    limited = mixed(source("one", "abc"), weights={"one": 1}, max_new_tokens=2)
    assert limited.text == "ab"


@pytest.mark.parametrize("rule", ["arithmetic", "geometric", "top_k_union(4)"])
def test_the_weights_of_those_who_are_left_sum_to_1(rule: str) -> None:
    one, two, three = source("one", "ab"), source("two", "ab", "ac"), source("three", "ad", "ab")
    gone = Source("one", one.tokenizer, Losing(one, 0, RuntimeError("gone")))
    left = mixed(gone, two, three, weights={"one": 8, "two": 3, "three": 1}, rule=rule)
    other = mixed(two, three, weights={"two": 3, "three": 1}, rule=rule)
    assert left.steps[0].dropped[0].source == "one"
    assert left.text == other.text
    costs = [[step.candidates[0].cost for step in each.steps] for each in (left, other)]
    assert costs[0] == pytest.approx(costs[1])
