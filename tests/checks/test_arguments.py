"""What the types of a signature take, and in which form the function gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from coolfusion import FusionModel, write_trace
from coolfusion.checks.arguments import checked, checked_fields
from coolfusion.errors import PromptError, UsageError
from coolfusion.testing import toy_source


class Speaker(Protocol):
    @property
    def voice(self) -> str: ...
    def speak(self) -> str: ...


class Dog:
    voice = "deep"

    def speak(self) -> str:
        return "woof"


@checked
def take(
    *,
    count: int = 0,
    number: float = 0.0,
    flag: bool = False,
    text: str = "",
    path: str | Path | None = None,
    paths: str | Path | Sequence[str | Path] = ".",
    words: tuple[str, ...] = (),
    weights: Mapping[str, float] | None = None,
    items: Iterable[int] = (),
    call: Callable[[int], int] = abs,
    choice: Literal["a", "b"] = "a",
    speaker: Speaker | None = None,
    later: Later | None = None,
    anything: Any = None,
) -> tuple[Any, ...]:
    return (
        *(count, number, flag, text, path, paths, words),
        *(weights, list(items), call, choice, speaker, later, anything),
    )


class Later:
    """Defined after the function that takes it."""


def the(name: str, value: object) -> Any:
    """How the function gets the value of an argument."""
    names = list(take.__annotations__)
    return take(**{name: value})[names.index(name)]


@pytest.mark.parametrize(
    ("name", "given", "got"),
    [
        ("count", np.int32(3), 3),
        ("count", np.array(3), 3),
        ("number", 3, 3),
        ("number", np.float32(0.5), 0.5),
        ("number", np.int64(2), 2),
        ("flag", np.bool_(True), True),
        ("words", ["a", "b"], ("a", "b")),
        ("weights", {"a": np.float64(1.0)}, {"a": 1.0}),
        ("items", range(3), [0, 1, 2]),
        ("items", iter([1, 2]), [1, 2]),
        ("items", {4}, [4]),
        ("items", np.array([1, 2]), [1, 2]),
        ("path", "x/y", "x/y"),
        ("paths", ["x", Path("y")], ["x", Path("y")]),
    ],
)
def test_what_fits(name: str, given: object, got: object) -> None:
    taken = the(name, given)
    assert taken == got
    assert type(taken) is type(got)


def test_objects_stay_themselves() -> None:
    for name, value in {
        "speaker": Dog(),
        "later": Later(),
        "call": len,
        "weights": {"a": 1.0},
    }.items():
        assert the(name, value) is value
    given = ["a"]
    assert the("anything", given) is given


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("count", True, "count is True; it must be a whole number."),
        ("count", 1.0, "count is 1.0; it must be a whole number."),
        ("count", 10**2000, "at most 1023 bits"),
        ("number", "1", "number is '1'; it must be a number."),
        ("flag", 1, "flag is 1; it must be True or False."),
        ("text", b"x", "text is b'x'; it must be a text."),
        ("text", "a\ud800", "text[1] is '\\ud800'"),
        ("path", "", "path is ''"),
        ("path", "a\0b", "path is 'a\\x00b'"),
        ("path", "x" * 5000, "not over-long"),
        ("paths", ["x", 3], "paths[1] is 3"),
        ("words", "ab", "words is 'ab'; it must be a list or tuple."),
        ("words", {"a"}, "words is {'a'}"),
        ("words", ("a", None), "words[1] is None; it must be a text."),
        ("weights", {"a": "1"}, "weights['a'] is '1'; it must be a number."),
        ("weights", {1: 1.0}, "weights: a key is 1; it must be a text."),
        ("weights", [1.0], "weights is [1.0]; it must be a mapping or None."),
        ("items", iter([1, "2"]), "items[1] is '2'; it must be a whole number."),
        ("items", "12", "items is '12'"),
        ("call", 3, "call is 3; it must be a function."),
        ("choice", "c", "choice is 'c'; it must be 'a' or 'b'."),
        ("speaker", object(), "a Speaker, and has no speak or None."),
        ("speaker", Dog, "it must be a Speaker"),
        ("later", 3, "later is 3; it must be a Later or None."),
    ],
)
def test_what_does_not_fit_is_named(name: str, given: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        the(name, given)
    assert said in str(caught.value)


def test_what_is_called_a_prompt_is_a_prompt_error() -> None:
    @checked
    def answer(prompt: str) -> str:
        return prompt

    with pytest.raises(PromptError, match="prompt is 3"):
        answer(3)  # type: ignore[arg-type]
    assert answer("x") == "x"


def test_fields_are_checked_before_the_class_looks_at_them() -> None:
    @dataclass(frozen=True, slots=True)
    @checked_fields
    class Setting:
        level: int = 1
        names: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            if self.level < 0:
                raise UsageError("below 0")

    assert Setting(np.int8(2), ["a"]) == Setting(2, ("a",))  # type: ignore[arg-type]
    for level, said in (("x", "level is 'x'"), (-1, "below 0")):
        with pytest.raises(UsageError, match=said):
            Setting(level)  # type: ignore[arg-type]


class NoItems:
    """Is iterable by its class and has no items, as a tensor without dimensions."""

    def __iter__(self) -> Iterator[object]:
        raise TypeError("iteration over a 0-d tensor")


def test_what_only_looks_iterable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^generations is "):
        write_trace(tmp_path / "t.jsonl", NoItems())  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [None, "Tom has", 3])
def test_a_step_wants_a_state(state: Any) -> None:
    decoder = FusionModel([toy_source("a", ["Tom has 3 apples."])]).decoder
    with pytest.raises(UsageError, match=r"^states\[0\] is "):
        decoder.step(state)
