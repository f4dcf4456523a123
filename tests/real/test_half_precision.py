"""Real models in bfloat16: cached, and every token the model's own choice up to its resolution."""

from __future__ import annotations

import pytest
import torch

from coolfusion import Request, SegmentDecoder
from tests.real.pair import GEMMA, NAMES, PROMPTS, long_prompt, model_of, needs_pair, source

pytestmark = needs_pair
nightly = pytest.mark.nightly
# Logits of these models are below 32, where neighbours in bfloat16 are 1/8 apart. Of the two that
# are compared, each may be off by two of them.
TOLERANCE = 4 / 8


def regrets(name: str, prompt: str, num_tokens: int) -> list[float]:
    """By how much each written token is below the best one, by one plain pass over the text."""
    own = source(name, "bfloat16")
    text = SegmentDecoder([own]).generate(prompt, Request(max_new_tokens=num_tokens)).text
    ids = own.tokenizer.encode(text)
    lead = own.tokenizer.encode_prompt(prompt)
    with torch.inference_mode():
        logits = model_of(own)(
            input_ids=torch.tensor([[*lead, *ids]]), use_cache=False, logits_to_keep=len(ids) + 1
        ).logits[0, :-1]
    picked = logits.gather(-1, torch.tensor(ids)[:, None])[:, 0]
    return (logits.max(-1).values - picked).float().tolist()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (GEMMA, "essay"),
        *(
            pytest.param(name, kind, marks=nightly)
            for name in NAMES
            for kind in ("story", "code", "Chinese")
        ),
    ],
)
def test_every_token_is_the_models_own_choice(name: str, kind: str) -> None:
    found = regrets(name, PROMPTS[kind], 24)
    assert len(found) >= 20
    assert max(found) <= TOLERANCE
    assert sum(each > 0 for each in found) <= len(found) / 4  # near ties are few


@nightly
@pytest.mark.parametrize("name", NAMES)
def test_every_token_is_the_models_own_choice_past_the_window(name: str) -> None:
    assert max(regrets(name, long_prompt(29), 16)) <= TOLERANCE


@pytest.mark.parametrize("name", [GEMMA, pytest.param(NAMES[0], marks=nightly)])
def test_it_runs_with_a_cache(name: str) -> None:
    assert source(name, "bfloat16").backend.strategy == "packed"
