"""Functions that take options of the table show them, and are otherwise as they were."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from coolfusion.config.keywords import takes_options
from coolfusion.config.options import (
    BY_NAME,
    OPTIONS,
    RESPONSE,
    FusionOptions,
    ResponseOptions,
    options_of,
)
from coolfusion.errors import UnknownOptionError


@takes_options(RESPONSE)
def answer(a: int, *, seed: int = 7, **options: Any) -> tuple[int, int, dict[str, Any]]:
    """What it does."""
    return a, seed, options


def test_a_function_shows_the_options_it_takes() -> None:
    parameters = inspect.signature(answer).parameters
    assert parameters.keys() == {"a", *(each.name for each in options_of(RESPONSE))}
    assert parameters["seed"].default == 7
    assert parameters["top_p"].default == BY_NAME["top_p"].default
    assert parameters["stop"].annotation == "str | Sequence[str]"
    assert (answer.__name__, answer.__doc__) == ("answer", "What it does.")


def test_it_takes_these_and_no_others() -> None:
    assert answer(1) == (1, 7, {})
    assert answer(a=2, seed=3, top_k=4) == (2, 3, {"top_k": 4})
    with pytest.raises(UnknownOptionError, match=r"answer has no option .* Did you mean top_k"):
        answer(1, topk=2)
    with pytest.raises(TypeError, match="missing 1 required"):
        answer()  # type: ignore[call-arg]


def test_every_option_has_a_type() -> None:
    responses = {each.name for each in options_of(RESPONSE)}
    assert ResponseOptions.__annotations__.keys() == responses
    others = {each.name for each in OPTIONS} - responses - {"models"}
    assert FusionOptions.__annotations__.keys() == others
