"""Arguments of public functions, checked against the types that their signatures name.

    @checked
    def phrases(num_words: int) -> Boundary: ...

    phrases("3")    # UsageError: num_words is '3'; it must be a whole number.

The annotations are the one place that says what an argument may be: type checkers, ``help()`` and
these checks read the same words. Ranges are the functions' own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from coolfusion.checks.annotations import check_for, hints_of
from coolfusion.checks.values import Check, fitting
from coolfusion.documents import shown
from coolfusion.errors import UsageError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Class = TypeVar("Class", bound=type)


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorates a function whose arguments raise ``UsageError``, by name, unless they fit.

    The types are looked up at the first call, so they may be defined further below.
    """
    arguments: list[Arguments] = []

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if not arguments:
            arguments.append(Arguments(inspect.signature(function), hints_of(function)))
        given, named = arguments[0].fitting(args, kwargs)
        return function(*given, **named)

    return call


def checked_fields(cls: Class) -> Class:
    """Decorates a class below ``@dataclass``: its fields are checked before ``__post_init__``.

    Only classes that are not made in every step should be, since a check takes some microseconds.
    """
    own = cls.__dict__.get("__post_init__")
    fields: list[tuple[str, Check]] = []

    def check_all(self: object) -> None:
        if not fields:
            names = [name for name in cls.__annotations__ if hasattr(self, name)]
            hints = hints_of(cls)
            fields.extend((name, check_for(hints.get(name, Any))) for name in names)
        for name, check in fields:
            value = getattr(self, name)
            fit = fitting(name, value, check)
            if fit is not value:
                object.__setattr__(self, name, fit)
        if own is not None:
            own(self)

    cls.__post_init__ = check_all  # type: ignore[attr-defined]
    return cls


class Arguments:
    """The checks of a function's arguments, by their places and by their names."""

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Any]) -> None:
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        single = [each for each in signature.parameters.values() if each.kind not in kinds]
        self._checks = {
            each.name: check_for(hints[each.name]) for each in single if each.name in hints
        }
        keyword = inspect.Parameter.KEYWORD_ONLY
        self._places = [each.name for each in single if each.kind is not keyword]

    def fitting(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments as the function takes them. Raises ``UsageError`` naming one that is wrong."""
        checks = self._checks
        given = [
            fitting(name, value, checks[name]) if name in checks else value
            for name, value in zip(self._places, args, strict=False)
        ]
        named = {
            name: fitting(name, value, checks[name]) if name in checks else value
            for name, value in kwargs.items()
        }
        return [*given, *args[len(given) :]], named


def check_setting(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise ``UsageError`` naming a setting and its value, unless it ``holds``."""
    if not holds:
        raise UsageError(f"{name} is {shown(value)}; it must be {wanted}.")
