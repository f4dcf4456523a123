"""Merge methods by name: a formula, its parameters, and their allowed values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from coolfusion.documents import shown
from coolfusion.errors import UsageError
from coolfusion.merging.formulas import (
    Tensors,
    dare,
    dare_ties,
    linear,
    slerp,
    task_arithmetic,
    ties,
)
from coolfusion.merging.schedules import Schedule, numbers_in


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

    @property
    def identity(self) -> Any:
        """JSON-ready data that tells the method from others; for shipped ones, the name."""
        if METHODS.get(self.name) is self:
            return self.name
        defaults = sorted((name, each.default) for name, each in self.parameters.items())
        weight = None if self.weights is None else self.weights.default
        return [self.name, id(self.merge), weight, self.averages, defaults]


def check_models(how: Method, num_models: int, base: str | None) -> None:
    """Raise ``UsageError`` if a method takes no such number of models, or (no) such a ``base``."""
    if not num_models:
        raise UsageError(f"{how.name} was given no models. Give at least one.")
    if how.num_models is not None and num_models != how.num_models:
        wanted = "a base and 1 model" if how.needs_base else f"{how.num_models} models"
        raise UsageError(f"{how.name} takes {wanted}, but was given {num_models} models.")
    if how.needs_base and base is None:
        raise UsageError(
            f"{how.name} needs the base that the models were trained from, and none was given."
        )
    if not how.needs_base and base is not None:
        raise UsageError(
            f"{how.name} takes no base, but was given {base}. Make it one of the models, or leave it out."
        )


def check_numbers(how: Method, name: str, schedule: Schedule, parameter: Parameter | None) -> None:
    """Raise ``UsageError`` if a schedule has a number that ``parameter`` does not allow."""
    for number in numbers_in(schedule):
        if parameter is not None and not parameter.allows(number):
            raise UsageError(
                f"For {how.name}, {name} is {shown(number)}; it must be {parameter.wanted}."
            )


def check_average(weights: Sequence[float], name: str) -> None:
    """Raise ``UsageError`` if ``weights`` have no average for the tensor ``name``.

    That is so for a sum of 0, and for one that is small beside the weights.
    """
    largest = max(map(abs, weights), default=0.0)
    total = math.fsum(weight / largest for weight in weights) if largest else 0.0
    if abs(total) < CANCELLED:
        what = "sum to 0, so they have no average" if not total else "cancel each other"
        raise UsageError(
            f'For tensor "{name}" the weights {shown(list(weights))} {what}. Change one.'
        )


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


# Factors are applied in float32, which holds numbers up to 3e38.
LARGEST = 1e30
CANCELLED = 1e-6  # weights whose sum is smaller, beside the largest, leave rounding errors of it

_ANY = Parameter(1.0, lambda value: -LARGEST <= value <= LARGEST, "from -1e30 to 1e30")
_NOT_NEGATIVE = Parameter(1.0, lambda value: 0 <= value <= LARGEST, "from 0 to 1e30")
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
