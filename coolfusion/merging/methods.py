"""Merge methods by name: a formula, its parameters, and their allowed values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from coolfusion.merging.formulas import (
    Tensors,
    dare,
    dare_ties,
    linear,
    slerp,
    task_arithmetic,
    ties,
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a method for one tensor; ``tensors`` can be iterated once, and are read then."""

    name: str
    tensors: Tensors
    weights: Sequence[float]
    parameters: Mapping[str, float]
    seed: int
    base: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method: its default, and its allowed values (``wanted`` in words)."""

    default: float
    allows: Callable[[float], bool]
    wanted: str


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method and its inputs.

    ``num_models`` is None for any number, ``weights`` is None for a method without weights. A
    method that ``averages`` divides by the sum of the weights, which then must not be 0.
    """

    name: str
    merge: Callable[[Inputs], torch.Tensor]
    needs_base: bool = False
    num_models: int | None = None
    weights: Parameter | None = None
    averages: bool = False
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def _with_base(rule: Callable[..., torch.Tensor]) -> Callable[[Inputs], torch.Tensor]:
    return lambda given: rule(given.base, given.tensors, given.weights, **given.parameters)


def _seeded(rule: Callable[..., torch.Tensor]) -> Callable[[Inputs], torch.Tensor]:
    return lambda given: rule(
        given.base,
        given.tensors,
        given.weights,
        **given.parameters,
        key=(given.seed, given.name),
    )


_ANY = Parameter(1.0, math.isfinite, "a finite number")
_NOT_NEGATIVE = Parameter(1.0, lambda value: 0 <= value < math.inf, "0 or above")
_DROP = Parameter(0.5, lambda value: 0 <= value < 1, "from 0 to below 1")
_DENSITY = Parameter(0.2, lambda value: 0 < value <= 1, "above 0 and at most 1")
_T = Parameter(0.5, lambda value: 0 <= value <= 1, "from 0 to 1")

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "linear",
            lambda given: linear(given.tensors, given.weights),
            weights=_ANY,
            averages=True,
        ),
        Method(
            "slerp",
            lambda given: slerp(*given.tensors, **given.parameters),
            num_models=2,
            parameters={"t": _T},
        ),
        Method(
            "task_arithmetic",
            _with_base(task_arithmetic),
            needs_base=True,
            weights=_ANY,
            parameters={"scale": _ANY},
        ),
        Method(
            "ties",
            _with_base(ties),
            needs_base=True,
            weights=_NOT_NEGATIVE,
            parameters={"density": _DENSITY, "scale": _ANY},
        ),
        Method(
            "dare",
            _seeded(dare),
            needs_base=True,
            weights=_ANY,
            parameters={"drop": _DROP, "scale": _ANY},
        ),
        Method(
            "dare_ties",
            _seeded(dare_ties),
            needs_base=True,
            weights=_NOT_NEGATIVE,
            parameters={"drop": _DROP, "scale": _ANY},
        ),
    )
}
