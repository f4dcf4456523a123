"""Options as keywords: a signature shows them, values are checked, a wrong name gets a hint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from coolfusion.checks.annotations import hints_of
from coolfusion.checks.arguments import Arguments
from coolfusion.config.kinds import Option
from coolfusion.config.options import FusionOptions, ResponseOptions, options_of
from coolfusion.config.spelling import unknown_option

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def takes_options(
    *groups: str,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorates a function whose ``**options`` are those of some groups of the table.

    ``help()`` and ``inspect`` show each of them with its type and default; type checkers know them
    by ``Unpack``. Another keyword raises ``UnknownOptionError`` with a hint, and a value of another
    type ``UsageError``.
    """
    types = {**FusionOptions.__annotations__, **ResponseOptions.__annotations__}
    texts = {name: getattr(each, "__forward_arg__", each) for name, each in types.items()}

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = shown(function, options_of(*groups), texts)
        names = [name for name in signature.parameters if name not in ("self", "cls")]
        arguments: list[Arguments] = []  # made at the first call, when all types exist

        @wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            for name in kwargs:
                if name not in names:
                    raise unknown_option(f"{function.__name__} has no option", name, names)
            if not arguments:
                hints = {**hints_of(FusionOptions), **hints_of(ResponseOptions)}
                arguments.append(Arguments(signature, {**hints, **hints_of(function)}))
            given, named = arguments[0].fitting(args, kwargs)
            return function(*given, **named)

        checked.__dict__["__signature__"] = signature
        return checked

    return decorate


def shown(
    function: Callable[..., object], options: Sequence[Option], types: Mapping[str, Any]
) -> inspect.Signature:
    """The function's signature with ``options`` in the place of its ``**options``."""
    own = inspect.signature(function)
    named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=types.get(each.name, inspect.Parameter.empty),
        )
        for each in options
        if each.name not in own.parameters
    ]
    return own.replace(parameters=[*named, *keywords])
