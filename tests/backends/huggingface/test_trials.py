"""Right ways to compute beside broken ones, in every type."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pytest
import torch

from coolfusion.backends.huggingface import TransformersBackend, choosing, trials
from coolfusion.backends.huggingface.probing import difference, num_ids, rounding
from coolfusion.backends.huggingface.trials import ALONE, PACKED, Sample
from coolfusion.errors import NonFiniteError, UsageError
from tests.architectures import build
from tests.broken_passes import BROKEN, SUBTLE, broken_passes, error_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def small(dtype: torch.dtype) -> Any:
    """A random model with two kinds of attention."""
    return build("gemma3_text").to(dtype)


def sample_of(model: Any) -> Sample:
    return Sample.of(model, num_ids(model), (), None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_right_passes_are_used_in_every_type(dtype: torch.dtype) -> None:
    model = small(dtype)
    assert choosing.choose(model, num_ids(model), ()).kind == PACKED
    assert error_of(sample_of(model)) < rounding(model) / 3


@pytest.mark.parametrize("name", BROKEN)
def test_broken_passes_are_refused_in_every_type(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "passes_of", broken_passes(name))
    found = lru_cache(choosing._way_of_miniature.__wrapped__)  # what right passes had is not kept
    monkeypatch.setattr(choosing, "_way_of_miniature", found)
    for dtype in DTYPES:
        model = small(dtype)
        assert choosing.choose(model, num_ids(model), ()).kind != PACKED
        if name not in SUBTLE:
            assert not sample_of(model).agrees(PACKED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_that_looks_ahead_is_refused_in_every_type(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match="not causal"):
        sample_of(build("bert").to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_is_told_from_looking_ahead_in_every_type(dtype: torch.dtype) -> None:
    model = small(dtype)
    model.model.norm.register_forward_hook(lambda _, __, states: states + torch.randn_like(states))
    with pytest.raises(UsageError, match="differently every time"):
        sample_of(model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_type_that_is_too_narrow_is_named(dtype: torch.dtype) -> None:
    model = small(dtype)
    model.model.norm.register_forward_hook(lambda _, __, states: states * torch.inf)
    with pytest.raises(NonFiniteError, match=f"NaN or infinity in {str(dtype)[6:]}"):
        TransformersBackend(model)


def test_the_texts_of_a_sample_differ_from_the_branch_on() -> None:
    """A word is put in between; an ordinary text that repeats itself gets an odd one."""
    model = small(torch.float32)
    for text in ((), (5,) * 30, tuple(range(40, 60))):
        sample = Sample.of(model, num_ids(model), text, None)
        start = sample.num_shared
        assert sample.text[:start] == sample.branch[:start]
        assert sample.text[start] != sample.branch[start]
        assert sample.text[start:-1] == sample.branch[start + 1 :]
    assert sample.text == text[:9]
    assert sample.branch == (*text[:6], text[9], *text[6:8])


def test_a_sample_fits_into_the_window() -> None:
    model = small(torch.float32)
    for limit in (4, 5, 8, 300):
        sample = Sample.of(model, num_ids(model), (), limit)
        assert len(sample.text) == len(sample.branch) == min(limit, 9)
        assert sample.agrees(PACKED)
        assert sample.agrees(ALONE)


def test_a_difference_is_a_share_of_the_spread() -> None:
    wanted = torch.tensor([[1.0, -1.0, 0.0], [3.0, -3.0, 0.0]])
    assert difference(wanted + 7, wanted) == pytest.approx(0, abs=1e-6)
    assert difference(wanted * 1.5, wanted) == pytest.approx(0.5)
    # The error is (0, 0, 0.3), or (-0.1, -0.1, 0.2) around its mean.
    off = wanted + torch.tensor([[0, 0, 0.3], [0, 0, 0]])
    assert difference(off, wanted) == pytest.approx(math.sqrt(0.06 / 20))
    assert math.isnan(difference(wanted * math.nan, wanted))


@pytest.mark.parametrize("lowest", [-math.inf, torch.finfo(torch.float32).min])
def test_ids_that_are_ruled_out_do_not_count(lowest: float) -> None:
    wanted = torch.tensor([[1.0, -1.0, 0.0]])
    masked = torch.tensor([[1.0, -1.0, 0.0, lowest]])
    found = torch.tensor([[1.1, -1.0, 0.0, lowest]])
    assert difference(found, masked) == pytest.approx(difference(found[:, :3], wanted))


@pytest.mark.parametrize(
    ("kinds", "coarsest"),
    [
        ([torch.float32], torch.float32),
        ([torch.float64], torch.float32),
        ([torch.float32, torch.bfloat16], torch.bfloat16),
        ([torch.float16, torch.int8], torch.float16),
        ([torch.bfloat16, torch.float8_e4m3fn], torch.bfloat16),
    ],
)
def test_what_counts_as_rounding_follows_the_coarsest_type(
    kinds: list[torch.dtype], coarsest: torch.dtype
) -> None:
    parts = [torch.nn.Parameter(torch.ones(2).to(kind), requires_grad=False) for kind in kinds]
    allowed = rounding(torch.nn.ParameterList(parts))
    assert allowed == pytest.approx(math.sqrt(torch.finfo(coarsest).eps) / 2)


def test_a_backend_says_how_it_is_run() -> None:
    backend = TransformersBackend(small(torch.bfloat16))
    assert repr(backend) == "TransformersBackend(Gemma3ForCausalLM, bfloat16, cpu, packed)"
