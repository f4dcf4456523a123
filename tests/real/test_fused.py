"""Two real models fused: what the naive algorithm says, with any cache, guess, batch and prompt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from coolfusion import Request, SegmentDecoder, Source
from coolfusion.tokenization.prompts import Prompt, prompt_for
from tests.decoding.segments.test_reference import assert_equal, voice_of
from tests.real.pair import (
    GEMMA,
    PROMPTS,
    SMOLLM2,
    WINDOW,
    long_prompt,
    model_of,
    needs_pair,
    own_tokenizer,
    pair,
)

pytestmark = needs_pair
nightly = pytest.mark.nightly
CHAT = [{"role": "user", "content": "Name a fruit that is yellow."}]
EACH_ITS_OWN = {SMOLLM2: CHAT, GEMMA: "Q: Name a fruit that is yellow.\nA:"}


def by_model(source: Source) -> Callable[[tuple[int, ...]], np.ndarray]:
    """The model's distribution after some ids, by a plain pass over all of them."""
    known: dict[tuple[int, ...], np.ndarray] = {}
    size = source.backend.vocab_size

    def log_probs(ids: tuple[int, ...]) -> np.ndarray:
        if ids not in known:
            with torch.inference_mode():
                logits = model_of(source)(
                    input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1
                ).logits[0, -1, :size]
            known[ids] = logits.double().log_softmax(-1).numpy()
        return known[ids]

    return log_probs


def assert_naive(prompt: Prompt, num_steps: int, preset: str = "default") -> int:
    """Compare some steps with the naive algorithm; how many contests there were."""
    sources = pair()
    voices = [voice_of(each, prompt_for(prompt, each.name), by_model(each)) for each in sources]
    return assert_equal(sources, voices, prompt, preset, num_steps)


def test_it_is_the_naive_algorithm_for_a_few_words() -> None:
    assert assert_naive(PROMPTS["letter"], 4) > 0


@nightly
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_it_is_the_naive_algorithm(preset: str) -> None:
    kinds = ("question", "code", "essay")
    assert sum(assert_naive(PROMPTS[kind], 8, preset) for kind in kinds) >= 3


@nightly
def test_it_is_the_naive_algorithm_past_the_window() -> None:
    prompt = long_prompt(29)
    assert all(len(each.tokenizer.encode_prompt(prompt)) > 600 > WINDOW for each in pair())
    assert_naive(prompt, 3)
    texts = {
        SegmentDecoder(pair(), **how).generate(prompt, Request(max_new_tokens=16)).text
        for how in ({}, {"speculation": None})
    }
    assert len(texts) == 1


@nightly
def test_a_chat_for_one_and_a_text_for_the_other() -> None:
    """Each model reads the prompt as transformers would make it, and both continue one text."""
    theirs = own_tokenizer(SMOLLM2).apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=False
    )
    smollm2, gemma = pair()
    assert list(smollm2.tokenizer.encode_prompt(CHAT)) == theirs
    assert (
        list(gemma.tokenizer.encode_prompt(EACH_ITS_OWN[GEMMA]))
        == own_tokenizer(GEMMA)(EACH_ITS_OWN[GEMMA])["input_ids"]
    )
    assert_naive(EACH_ITS_OWN, 6)
    found = SegmentDecoder(pair()).generate(EACH_ITS_OWN, Request(max_new_tokens=16))
    plain = SegmentDecoder(pair(), speculation=None)
    assert found.text == plain.generate(EACH_ITS_OWN, Request(max_new_tokens=16)).text != ""


@pytest.mark.parametrize(
    "kind", ["list", *(pytest.param(kind, marks=nightly) for kind in PROMPTS if kind != "list")]
)
def test_speculation_changes_nothing(kind: str) -> None:
    request = Request(max_new_tokens=20)
    fused = SegmentDecoder(pair()).generate(PROMPTS[kind], request)
    plain = SegmentDecoder(pair(), speculation=None).generate(PROMPTS[kind], request)
    assert fused.text == plain.text != ""
    assert [step.segment for step in fused.steps] == [step.segment for step in plain.steps]
    assert [step.winner for step in fused.steps] == [step.winner for step in plain.steps]


def test_a_batch_changes_nothing() -> None:
    kinds = ("question", "Japanese")
    prompts = [PROMPTS[kind] for kind in kinds]
    request = Request(max_new_tokens=8)
    together = SegmentDecoder(pair()).generate_batch(prompts, request)
    alone = [SegmentDecoder(pair()).generate(prompt, request) for prompt in prompts]
    assert [each.text for each in together] == [each.text for each in alone]
    assert all(each.text for each in alone)


@nightly
def test_a_large_batch_changes_nothing() -> None:
    prompts = [*PROMPTS.values(), long_prompt(29), EACH_ITS_OWN]
    request = Request(max_new_tokens=20)
    together = SegmentDecoder(pair()).generate_batch(prompts, request, max_rows=8)
    alone = [SegmentDecoder(pair()).generate(prompt, request) for prompt in prompts]
    assert [each.text for each in together] == [each.text for each in alone]
