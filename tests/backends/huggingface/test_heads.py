"""Logits are computed where they are wanted, and nowhere else if the model can be told so."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_outputs import CausalLMOutput

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface import TransformersBackend
from coolfusion.backends.huggingface.heads import Head, lines_at
from tests.backends.huggingface.test_causal import make_model

SHAPE = (3, 5)
PLACES = st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))


class Counted:
    """How many positions reach a part of a model."""

    def __init__(self, part: Any) -> None:
        self.nums: list[int] = []
        part.register_forward_pre_hook(self._count)

    def _count(self, _part: Any, inputs: tuple[torch.Tensor]) -> None:
        self.nums.append(inputs[0].shape[:-1].numel())


class CountsFromTheEnd(torch.nn.Module):
    """A model as remote code may have it: its head takes a number of last tokens alone."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model("llama")
        self.lm_head = self.model.lm_head

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0) -> Any:
        """As older models slice."""
        hidden = self.model.model(input_ids=input_ids).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden[:, slice(-logits_to_keep, None), :]))


class ComputesAll(CountsFromTheEnd):
    """A model that cannot be told anything."""

    def forward(self, input_ids: torch.Tensor) -> Any:  # type: ignore[override]
        """Logits of all tokens."""
        return super().forward(input_ids)


@lru_cache
def model_of(kind: Any) -> Any:
    """A small model."""
    return make_model(kind) if isinstance(kind, str) else kind()


@pytest.mark.parametrize("kind", ["llama", "gemma2", CountsFromTheEnd, ComputesAll])
@given(places=st.lists(PLACES, min_size=1, max_size=8))
def test_logits_are_those_of_the_places(kind: Any, places: list[tuple[int, int]]) -> None:
    """In any order and with any of them twice, whatever the model can be told."""
    model = model_of(kind)
    ids = torch.arange(3, 3 + SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    with torch.inference_mode():
        whole = model(input_ids=ids).logits
        logits = model(input_ids=ids, **Head(model).only(places, SHAPE)).logits
    wanted = torch.stack([whole[place] for place in places])
    torch.testing.assert_close(lines_at(logits, places, SHAPE), wanted)


@pytest.mark.parametrize(
    ("kind", "num"), [("llama", 3), ("bloom", 3), (CountsFromTheEnd, 9), (ComputesAll, 15)]
)
def test_only_the_places_reach_the_head(kind: Any, num: int) -> None:
    """All of the last columns where a head counts from the end."""
    model = model_of(kind)
    counted = Counted(model.lm_head)
    options = Head(model).only([(0, 4), (2, 2), (2, 4)], SHAPE)
    with torch.inference_mode():
        model(input_ids=torch.full(SHAPE, 7), **options)
    assert counted.nums == [num]


def test_padding_and_idle_rows_of_a_batch_reach_no_head() -> None:
    """One position for the row that wants one, three for the other."""
    model = make_model("llama")
    backend = TransformersBackend(model)
    texts = [tuple(range(first, first + 9)) for first in (10, 30, 50)]
    backend.score([Query(text, sequence_id=number) for number, text in enumerate(texts)])
    counted = Counted(model.lm_head)
    first = Query((*texts[0], 3), sequence_id=0)
    last = Query((*texts[2], 4), (5, 6), sequence_id=2)
    answers = backend.score([first, last])
    assert counted.nums == [4]
    alone = TransformersBackend(model)
    for query, answer in zip((first, last), answers, strict=True):
        expected = alone.score([query])[0]
        assert answer.picks == expected.picks
        assert answer.pick_log_probs == pytest.approx(expected.pick_log_probs, abs=1e-5)


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_a_new_prefix_of_a_snapshot_reaches_the_head_with_its_last_token(kind: str) -> None:
    """The state after it needs the logits of the next token alone."""
    model = make_model(kind)
    backend = TransformersBackend(model)
    assert backend.strategy == "snapshots"
    counted = Counted(model.lm_head)
    backend.score([Query(tuple(range(40, 60)))])
    assert counted.nums == [1]
