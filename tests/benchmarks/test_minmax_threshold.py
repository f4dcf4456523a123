"""The min-max threshold against numbers worked out by hand, and as a method of a merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.minmax_threshold import MINMAX_THRESHOLD, minmax_threshold
from coolfusion.errors import UsageError
from coolfusion.merging import METHODS, Inputs, Merge, merge
from tests.checkpoints import llama_tensors, tensors_of, write_llama

NUMBERS = st.floats(-8, 8, allow_nan=False, width=32)
VECTORS = st.lists(NUMBERS, min_size=6, max_size=6).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float64)
)


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_by_hand() -> None:
    base, expert = vector(-1, 0, 0.9, 1), vector(10, 20, 30, 40)
    # shares of the range: 0, 0.5, 0.95, 1
    assert minmax_threshold(base, expert, 0.9).tolist() == [-1, 0, 30, 40]
    assert minmax_threshold(base, expert, 0.5).tolist() == [-1, 20, 30, 40]
    # A constant has no range; 0/0 is below no threshold in the released code either.
    assert minmax_threshold(vector(2, 2), vector(3, 4), 0.9).tolist() == [3, 4]


@given(VECTORS, VECTORS, st.floats(0, 1))
def test_it_picks_one_of_the_two(
    base: torch.Tensor, expert: torch.Tensor, threshold: float
) -> None:
    merged = minmax_threshold(base, expert, threshold)
    assert bool(((merged == base) | (merged == expert)).all())
    assert bool((merged[base == base.max()] == expert[base == base.max()]).all())


def test_all_but_mlp_tensors_are_left_and_not_read() -> None:
    rule = MINMAX_THRESHOLD.merge
    base, expert = vector(0, 1), vector(5, 6)
    inputs = Inputs("layers.0.mlp.up.weight", iter([expert]), (), {"threshold": 0.9}, 0, base)
    assert rule(inputs).tolist() == [0, 6]
    unread = iter([expert])
    inputs = Inputs("layers.0.attn.weight", unread, (), {"threshold": 0.9}, 0, base)
    assert rule(inputs).tolist() == [0, 1]
    assert next(unread) is expert


def test_as_a_method_of_a_merge(tmp_path: Path) -> None:
    base, expert = (write_llama(tmp_path / name, n) for n, name in enumerate(("base", "a")))
    recipe = Merge(MINMAX_THRESHOLD, (expert,), base, parameters={"threshold": 0.5})
    merged = tensors_of(merge(recipe, tmp_path / "out"))
    of_base, of_expert = llama_tensors(0), llama_tensors(1)
    for name, tensor in merged.items():
        wanted = of_base[name].float()
        if "mlp" in name:
            wanted = minmax_threshold(wanted, of_expert[name].float(), 0.5)
        assert torch.equal(tensor, wanted.to(tensor.dtype))
    assert MINMAX_THRESHOLD.name not in METHODS
    with pytest.raises(UsageError, match="a base and 1 model"):
        Merge(MINMAX_THRESHOLD, (expert, expert), base)
