"""Products with the weight on the left are those of ``functional.linear``; models stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.nn.utils import parametrizations

from coolfusion.backends.huggingface import products
from coolfusion.backends.huggingface.products import QuickLinear, gains, product, quick
from tests.backends.huggingface.test_causal import CONFIGS, VOCAB, make_model

EPSILON = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def _every_weight_is_large() -> Iterator[None]:
    """Hold the rule for weights that are quick to test."""
    if not torch.backends.mkl.is_available():
        pytest.skip("this torch comes without the library that the rule is for")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "LARGE", 0)
        patch.setattr(products, "HEAD", 2000)
        patch.setattr(products, "NARROW", 20)
        yield


def random(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 99),
    outputs=st.integers(1, 90),
    size=st.integers(1, 40),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
    stride=st.integers(1, 2),
)
def test_a_product_is_that_of_linear(
    seed: int, outputs: int, size: int, shape: list[int], stride: int
) -> None:
    """Up to the rounding of sums of so many terms, for all shapes."""
    weight, bias = random(seed, outputs, size), random(seed + 1, outputs) if seed % 2 else None
    inputs = random(seed + 2, *shape, stride * size)[..., ::stride]
    kept = inputs.clone()
    found, wanted = product(inputs, weight, bias), functional.linear(inputs, weight, bias)
    assert found.shape == wanted.shape
    assert found.is_contiguous()
    terms = functional.linear(inputs.abs(), weight.abs(), None if bias is None else bias.abs())
    assert bool(((found - wanted).abs() <= EPSILON * (size + 2) * terms).all())
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("num_positions", range(1, 10))
def test_equal_rows_of_a_weight_stay_equal(num_positions: int) -> None:
    """So a tie between two ids is one in either product, and the first of them is picked."""
    weight = random(1, 60, 50)[torch.arange(300) % 60]
    found = product(random(2, num_positions, 50), weight)
    assert torch.equal(found, found[:, :60].repeat(1, 5))


def test_the_rule_follows_sizes() -> None:
    """One to eight positions for a large vocabulary, fewer for smaller weights, never all."""

    def counts(*shape: int) -> list[int]:
        return [num for num in range(12) if gains(torch.zeros(shape), num)]

    assert counts(200, 20) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert counts(200, 30) == [2, 3, 4, 5, 6, 7, 8]
    assert counts(20, 20) == [1, 2, 3, 4]
    assert counts(30, 30) == [2, 3]
    assert counts(20, 30) == []
    assert not any(gains(torch.zeros(200, 20, dtype=torch.bfloat16), num) for num in range(12))
    assert not any(gains(torch.zeros(20, 200).t(), num) for num in range(12))
    assert not any(gains(torch.zeros(200, 20, device="meta"), num) for num in range(12))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_twin_gives_the_logits_of_its_model(kind: str) -> None:
    """For every architecture, with products of both kinds in it."""
    model = make_model(kind)
    twin = quick(model)
    assert any(type(part) is QuickLinear for part in twin.modules())
    for num in (1, 2, 5, 9):
        ids = torch.arange(3, 3 + num)[None]
        with torch.inference_mode():
            wanted = model(input_ids=ids, use_cache=False).logits
            found = twin(input_ids=ids, use_cache=False).logits
        assert found.shape == (1, num, VOCAB)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_model_stays_as_it_is() -> None:
    """No part of it is replaced, and the twin has no weights of its own."""
    model = make_model("llama")
    parts = [(part, dict(vars(part)), type(part)) for part in model.modules()]
    twin = quick(model)
    assert [part for part, _, _ in parts] == list(model.modules())
    assert all(vars(part) == known and type(part) is kind for part, known, kind in parts)
    assert {id(weight) for weight in twin.parameters()} == {id(w) for w in model.parameters()}
    assert twin.model.layers[0].input_layernorm is model.model.layers[0].input_layernorm


def test_a_twin_follows_its_model() -> None:
    """Weights that are set anew, and hooks that come later, hold for both."""
    model = make_model("llama")
    twin = quick(model)
    inputs = random(1, 2, 32)
    model.lm_head.weight = torch.nn.Parameter(random(2, VOCAB, 32), requires_grad=False)
    torch.testing.assert_close(twin.lm_head(inputs), model.lm_head(inputs))
    called = []
    handle = model.lm_head.register_forward_pre_hook(lambda *_: called.append(1))
    twin.lm_head(inputs)
    handle.remove()
    assert called


class _Own(torch.nn.Linear):
    """A linear layer of another kind, as quantized ones are."""


class _Weight(torch.Tensor):
    """A weight of another kind, such as one spread over devices."""


def _with_a_forward_of_its_own(layer: torch.nn.Linear) -> torch.nn.Module:
    layer.forward = lambda inputs: 2 * inputs  # type: ignore[method-assign,assignment]
    return layer


def _with_a_weight_of_its_own(layer: torch.nn.Linear) -> torch.nn.Module:
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(_Weight))
    return layer


def _compiled(layer: torch.nn.Linear) -> torch.nn.Module:
    layer.compile(backend="eager")
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda _: _Own(4, 9),
        _with_a_forward_of_its_own,
        _with_a_weight_of_its_own,
        _compiled,
        lambda layer: torch.compile(layer, backend="eager"),
        parametrizations.weight_norm,
        lambda layer: torch.jit.trace(layer, torch.zeros(1, 4)),
        lambda layer: layer.to(torch.bfloat16),
        lambda _: torch.nn.Linear(9, 4),
    ],
)
def test_what_cannot_gain_or_is_unknown_is_left_alone(make: Any) -> None:
    """The model itself is run then."""
    model = torch.nn.Sequential(make(torch.nn.Linear(4, 9)), torch.nn.Tanh())
    assert quick(model) is model


def test_shared_parts_are_shared_in_the_twin() -> None:
    """A layer that stands in two places is one layer there, too."""
    layer = torch.nn.Linear(4, 9)
    twin = quick(torch.nn.ModuleList([layer, torch.nn.ModuleList([layer])]))
    assert type(twin[0]) is QuickLinear
    assert twin[0] is twin[1][0]
