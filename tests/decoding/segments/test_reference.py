"""The package gives what the naive algorithm gives: segments, winners and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from coolfusion import Request, SegmentDecoder, Source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.segments.recipe import PRESETS
from coolfusion.testing.toys import toy_source
from coolfusion.tokenization.boundaries import words
from coolfusion.tokenization.prompts import OwnPrompt, Prompt
from tests.reference import Voice, fuse
from tests.strategies import FAMILIES, STORIES

NUM_STEPS = 12
ORDER = 3  # of the n-gram models, whose memory is therefore two tokens long


def voice_of(
    source: Source, prompt: OwnPrompt, log_probs: Callable[[tuple[int, ...]], np.ndarray]
) -> Voice:
    """What the reference may know of a source: its tokenizer's tables and plain distributions."""

    def decode(ids: tuple[int, ...]) -> str | None:
        joined = b"".join(source.tokenizer.piece(token) or b"" for token in ids)
        try:
            return joined.decode()
        except UnicodeDecodeError as error:
            return joined[: error.start].decode() or None

    return Voice(
        source.tokenizer.encode_prompt(prompt),
        source.tokenizer.encode,
        decode,
        log_probs,
        source.tokenizer.end_ids,
    )


def by_backend(source: Source) -> Callable[[tuple[int, ...]], np.ndarray]:
    """The n-gram model's own distribution after some ids, without the seam in between."""
    return lambda ids: source.backend._log_distribution(ids[1 - ORDER :])


def assert_equal(
    sources: Sequence[Source],
    voices: list[Voice],
    prompt: Prompt,
    preset: str,
    num_steps: int = NUM_STEPS,
) -> int:
    """Compare the package with the reference until a choice is too close to call.

    Returns how many contests were compared.
    """
    try:
        wanted = fuse(voices, words.propose, paper=preset == "paper", num_steps=num_steps)
    except LookupError:  # a source babbles on without a word's end, where caps would decide
        reject()
    decoder = SegmentDecoder(sources, PRESETS[preset])
    state = decoder.start(prompt, Request(max_new_tokens=2000, max_segment_tokens=1000))
    num_contests = 0
    for segment, costs in wanted:
        assert state.stop_reason is None
        state, step = decoder.step(state)
        if len(costs) > 1:
            assert [candidate.cost for candidate in step.candidates] == pytest.approx(
                costs, rel=1e-4, abs=1e-5
            )
            first, second = sorted(costs)[:2]
            num_contests += 1
            if second - first < 1e-3:
                break
        assert step.segment == segment
    return num_contests


@pytest.mark.parametrize("preset", sorted(PRESETS))
@settings(max_examples=20, deadline=None)
@given(
    families=st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=3, unique=True),
    shares=st.lists(st.sets(st.integers(0, len(STORIES) - 1), min_size=2), min_size=3, max_size=3),
    prompt=st.sampled_from(["Tom has", "The cat", "Ann"]),
)
def test_ngram_sources(
    preset: str, families: list[str], shares: list[set[int]], prompt: str
) -> None:
    sources = [
        toy_source(
            family, [STORIES[i] for i in sorted(share)], family=family, order=ORDER, vocab_size=300
        )
        for family, share in zip(families, shares, strict=False)
    ]
    voices = [voice_of(source, prompt, by_backend(source)) for source in sources]
    assert_equal(sources, voices, prompt, preset)


@pytest.fixture(scope="module")
def builtin() -> list[tuple[Source, Callable[[tuple[int, ...]], np.ndarray]]]:
    """The built-in sources beside plain, cache-free forward passes of their models."""
    import torch
    from transformers import AutoModelForCausalLM

    from coolfusion.backends.huggingface import load_source

    def plain(path: Path) -> Callable[[tuple[int, ...]], np.ndarray]:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        memo: dict[tuple[int, ...], np.ndarray] = {}

        def log_probs(ids: tuple[int, ...]) -> np.ndarray:
            if ids not in memo:
                with torch.inference_mode():
                    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
                rows = torch.log_softmax(logits.float(), dim=-1).numpy()
                memo.update((ids[: i + 1], row) for i, row in enumerate(rows))
            return memo[ids]

        return log_probs

    return [(load_source(path, path.name), plain(path)) for path in builtin_paths()]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("chosen", [(0,), (0, 1), (2, 1), (0, 1, 2)])
@pytest.mark.parametrize(
    ("prompt", "num_contests"),
    [
        ("Question: Mia has 14 plums. She eats 5. How many plums does Mia have left?\nAnswer:", 0),
        ("Question: Ann has 3 boxes of 5 pears each. How many pears does Ann have?\nAnswer:", 2),
    ],
)
def test_trained_transformers(
    builtin, preset: str, chosen: tuple[int, ...], prompt: str, num_contests: int
) -> None:
    """All three know the first kind of question; of the second kind not all have seen any."""
    sources = [builtin[index][0] for index in chosen]
    voices = [voice_of(builtin[index][0], prompt, builtin[index][1]) for index in chosen]
    found = assert_equal(sources, voices, prompt, preset)
    assert found >= (num_contests if len(chosen) > 1 else 0)
