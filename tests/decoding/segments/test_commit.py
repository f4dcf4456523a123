"""What the end of a step teaches: tallies and weights of what was committed."""

from __future__ import annotations

import math

import numpy as np

from coolfusion import Recipe, Request, SegmentDecoder
from coolfusion.decoding.source_weights import MAX_LOSS
from coolfusion.testing import toy_source

GREETINGS = ("Grüße für Jürgen, schöne Grüße für Zoë. Ärger über Öl.", "日本語の文章。 日本の語。")
OTHERS = ("Grüße für Müller, größere Äpfel für Jürgen.", "日本の文章。 語。")


def test_losses_are_per_byte() -> None:
    """Of letters with an accent and of Japanese, which have two and three bytes each."""
    sources = [
        toy_source("one", [*GREETINGS, *OTHERS], family="byte_bpe", order=2),
        toy_source("two", [*OTHERS, *OTHERS, *GREETINGS], family="characters", order=2),
    ]
    decoder = SegmentDecoder(sources, Recipe(hedge=0.2))
    num_updates = 0
    for prompt in ("Grüße", "日本", "Jürgen"):
        state, expected = decoder.start(prompt, Request(max_new_tokens=60)), np.full(2, 0.5)
        while state.stop_reason is None:
            state, step = decoder.step(state)
            won = step.candidates[step.winner] if step.winner is not None else None
            if won and won.log_likelihoods and not won.text.isascii():
                num_bytes = sum(1 + (ord(c) > 127) + (ord(c) > 2047) for c in won.text)
                bits = -np.array(won.log_likelihoods) / (num_bytes * math.log(2))
                expected *= np.exp(-0.2 * np.minimum(bits, MAX_LOSS))
                expected /= expected.sum()
                num_updates += bool((bits < MAX_LOSS).all())
                np.testing.assert_allclose(np.exp(state.log_weights), expected, rtol=1e-9)
            else:
                expected = np.exp(state.log_weights) if state.log_weights else expected
    assert num_updates > 1
