"""The options of a fusion as lm-eval's ``--model_args`` say them: words, numbers, true and false."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from coolfusion.config.keywords import shown
from coolfusion.config.kinds import TEXT, TEXT_OR_TEXTS, TEXTS, WEIGHTS, Option
from coolfusion.config.options import BY_NAME, OPTIONS
from coolfusion.config.spelling import unknown_option
from coolfusion.errors import UsageError

Argument = str | float | bool | None
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SAYABLE: Final = tuple(each for each in OPTIONS if not each.not_in_harness)


def fusion_options(arguments: Mapping[str, Argument]) -> dict[str, Any]:
    """The options as ``FusionModel.from_pretrained`` takes them; None is not said.

    Raises ``UsageError`` for a name that does not exist or cannot be said here, and for weights
    that are no numbers.
    """
    names = [each.name for each in SAYABLE]
    for name in arguments:
        if name in BY_NAME and name not in names:
            reason = BY_NAME[name].not_in_harness
            raise UsageError(f"{name} is no argument of the harness: {reason}.")
        if name not in names:
            raise unknown_option("The harness has no argument", name, names)
    given = {name: value for name, value in arguments.items() if value is not None}
    return {name: _read(BY_NAME[name], value) for name, value in given.items()}


def shows_options(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """``function``, whose signature shows the options in the place of its ``**options``."""
    types = {each.name: "str | float | bool | None" for each in SAYABLE}

    @wraps(function)
    def unchanged(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return function(*args, **kwargs)

    unchanged.__dict__["__signature__"] = shown(function, SAYABLE, types)
    return unchanged


def _read(option: Option, value: str | float) -> Any:
    if option.kind is WEIGHTS:
        return _numbers(value)
    parts = [part.strip() for part in str(value).split(";")]
    if option.kind is TEXTS:
        return parts
    if option.kind is TEXT_OR_TEXTS and len(parts) > 1:
        return parts
    return str(value) if option.kind in (TEXT, TEXT_OR_TEXTS) else value


def _numbers(text: str | float) -> list[float]:
    try:
        return [float(part) for part in str(text).split(";")]
    except ValueError:
        raise UsageError(f'weights is "{text}"; write numbers as 1;2;1.') from None
