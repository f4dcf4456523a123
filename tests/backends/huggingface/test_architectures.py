"""Every decoder of transformers behind the seam: its own numbers, or a reason why not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface import TransformersBackend
from coolfusion.errors import UsageError
from tests.architectures import KINDS, NOT_BUILT, build

# Kinds of attention and caches that differ; all others are tried by `make nightly`.
QUICK = ("llama4_text", "gpt_neo", "gemma3_text", "deepseek_v3", "mamba2", "bart", "doge", "bert")
LOOK_AHEAD = "not causal"
REFUSED = {
    **dict.fromkeys(
        [
            *("bert", "bert-generation", "big_bird", "camembert", "cpmant", "data2vec-text"),
            *("electra", "ernie", "megatron-bert", "rembert", "roberta"),
            *("roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta"),
            *("xlm-roberta-xl", "xlnet"),
        ],
        LOOK_AHEAD,
    ),
    "prophetnet": "cannot be run",
    "xlstm": "cannot be run",
}


def plain(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), dim=-1)


def assert_own_numbers(model: Any) -> str:
    """Growing, rewound and interleaved texts get what plain passes say; returns the way found."""
    backend = TransformersBackend(model)
    length = min(backend.context_length or 90, 90)
    text = tuple(3 + (7 * i * i + i) % 90 for i in range(length))
    for end in (10, 21, 34, 17, 47, 60, 80):
        if end + 3 > length:
            continue
        queries = [
            Query(text[:end], text[end : end + 3], sequence_id=1),
            Query(text[:end], (5, 9), sequence_id=1),
            Query(text[3 : end // 2 + 6], (5,), sequence_id=2),
        ]
        for query, scores in zip(queries, backend.score(queries), strict=True):
            ids = query.prefix + query.continuation
            whole = plain(model, ids)
            for i, token in enumerate(query.continuation):
                last = len(query.prefix) + i
                row = plain(model, ids[:last])[-1]
                allowed = 2e-3 * max(1.0, float(row.std()))
                # Where plain passes of two lengths differ, a choice of keys has tied.
                if float((row - whole[last - 1]).abs().max()) < allowed:
                    assert scores.log_probs[i] == pytest.approx(float(row[token]), abs=allowed)
    return backend.strategy


def print_outcomes() -> None:
    """What docs/inside/models.md sums up: how many kinds are run in which way."""
    counts = Counter(outcome(kind) for kind in KINDS)
    for way, number in counts.most_common():
        print(f"| {way} | {number} |")


def outcome(kind: str) -> str:
    """How a kind is run, or why it is not."""
    if kind in NOT_BUILT:
        with pytest.raises(Exception) as failure:  # noqa: PT011
            build(kind)
        assert NOT_BUILT[kind] in str(failure.value)
        return "not built"
    model = build(kind)
    if kind in REFUSED:
        with pytest.raises(UsageError, match=REFUSED[kind]):
            TransformersBackend(model)
        return "refused"
    return assert_own_numbers(model)


@pytest.mark.parametrize("kind", QUICK)
def test_a_kind_of_attention_or_cache(kind: str) -> None:
    assert outcome(kind)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(QUICK)))
def test_every_other_decoder(kind: str) -> None:
    assert outcome(kind)


def test_lists_name_only_what_there_is() -> None:
    assert set(NOT_BUILT) | set(REFUSED) | set(QUICK) <= set(KINDS)
    assert not set(NOT_BUILT) & set(REFUSED)


if __name__ == "__main__":
    print_outcomes()
