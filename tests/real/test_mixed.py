"""Mixtures of real models: with itself a model is itself, and batches change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coolfusion import MixtureDecoder, Request, SegmentDecoder
from coolfusion.decoding.mixture.options import make_mixture
from tests.real.pair import GEMMA, NAMES, PROMPTS, generated, needs_pair, pair, source

pytestmark = [needs_pair, pytest.mark.nightly]
REQUEST = Request(max_new_tokens=12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["arithmetic", "geometric"])
def test_by_tokens_a_model_with_itself_is_itself(name: str, rule: str) -> None:
    twice = [source(name), replace(source(name), name="again")]
    decoder = MixtureDecoder(twice, make_mixture(rule, route="tokens"))
    for kind in ("story", "Chinese"):
        found = decoder.generate(PROMPTS[kind], REQUEST)
        assert found.text == generated(source(name), PROMPTS[kind], 12) != ""


def test_by_bytes_a_model_with_itself_is_itself() -> None:
    """As far as one source mixed alone goes: the likeliest byte is not that of the likeliest token."""
    twice = [source(GEMMA), replace(source(GEMMA), name="again")]
    mixture = make_mixture("arithmetic", route="bytes")
    for kind in ("question", "Japanese"):
        alone = MixtureDecoder(twice[:1], mixture).generate(PROMPTS[kind], REQUEST)
        assert MixtureDecoder(twice, mixture).generate(PROMPTS[kind], REQUEST).text == alone.text
        assert alone.text


@pytest.mark.parametrize("rule", ["arithmetic", "geometric"])
def test_by_bytes_both_models_in_a_batch(rule: str) -> None:
    decoder = MixtureDecoder(pair(), make_mixture(rule, route="bytes"))
    prompts = [PROMPTS[kind] for kind in ("question", "letter", "Japanese")]
    together = decoder.generate_batch(prompts, REQUEST)
    alone = [decoder.generate(prompt, REQUEST) for prompt in prompts]
    assert [each.text for each in together] == [each.text for each in alone]
    assert all(each.text for each in alone)
    assert not any(each.warnings for each in alone)


def test_certain_bytes_are_those_of_the_fusion() -> None:
    """Where both models are sure of the next word, mixing and fusing say the same."""
    prompt = "1, 2, 3, 4, 5, 6, 7, 8,"
    mixed = MixtureDecoder(pair(), make_mixture("arithmetic", route="bytes"))
    assert mixed.generate(prompt, REQUEST).text[:12] == " 9, 10, 11, "
    assert SegmentDecoder(pair()).generate(prompt, REQUEST).text[:12] == " 9, 10, 11, "
