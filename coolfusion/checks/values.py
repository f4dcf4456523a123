"""Single values as a function takes them: no boolean is a number, and no number a text.

Numbers of numpy become those of Python. Each check gives the value, or raises ``Unfit``.
"""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from coolfusion.documents import shown
from coolfusion.errors import PromptError, UsageError

NUM_BITS = 1023  # of a whole number at most, so that it can be shown, and be a float

# Gives the value as the function takes it, or raises ``Unfit``.
Check = Callable[[object], object]


class Unfit(Exception):
    """A value that is not of a type, ``at`` a place in it such as "[3]", and what is wanted there."""

    def __init__(self, value: object, wanted: str, at: str = "") -> None:
        super().__init__(wanted)
        self.value, self.wanted, self.at = value, wanted, at


class CheckedItems:
    """The items of an iterator, checked as they are taken; ``name`` is the argument's."""

    def __init__(self, values: Iterator[object], check: Check) -> None:
        self.name = "an item"
        self._values, self._check = enumerate(values), check

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        number, value = next(self._values)
        return fitting(f"{self.name}[{number}]", value, self._check)


def fitting(name: str, value: object, check: Check) -> Any:
    """The value as ``check`` gives it. Raises ``UsageError`` that calls it ``name``.

    What is called a prompt raises ``PromptError``: among many prompts, one may fail alone.
    """
    try:
        fit = check(value)
    except Unfit as unfit:
        error = PromptError if name in ("prompt", "prompts") else UsageError
        raise error(
            f"{name}{unfit.at} is {shown(unfit.value)}; it must be {unfit.wanted}."
        ) from None
    if isinstance(fit, CheckedItems):
        fit.name = name
    return fit


def anything(value: object) -> object:
    """The value, whatever it is."""
    return value


def none(value: object) -> object:
    """None."""
    if value is not None:
        raise Unfit(value, "None")
    return None


def flag(value: object) -> object:
    """True or False, also those of numpy."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise Unfit(value, "True or False")


def count(value: object) -> object:
    """A whole number of at most ``NUM_BITS`` bits."""
    if type(value) is not int:
        if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
            raise Unfit(value, "a whole number")
        try:
            value = operator.index(value)
        except TypeError:  # an array of several
            raise Unfit(value, "a whole number") from None
    if value.bit_length() > NUM_BITS:
        raise Unfit(value, f"a whole number of at most {NUM_BITS} bits")
    return value


def number(value: object) -> object:
    """A number; infinity and NaN are some, too."""
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise Unfit(value, "a number")
    if isinstance(value, int):
        return count(value)
    return value.item() if isinstance(value, np.generic) else value


def text(value: object) -> object:
    """A text of whole characters."""
    if not isinstance(value, str):
        raise Unfit(value, "a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Unfit(
                value[error.start : error.start + 1],
                "a whole character; a text with half of one (a lone surrogate) is not Unicode",
                f"[{error.start}]",
            ) from None
    return value


def raw_bytes(value: object) -> object:
    """Bytes."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise Unfit(value, "bytes")
    return value


def path_like(value: object) -> object:
    """A path of text that a file system can have, whatever is there."""
    whole = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(whole, str):
        raise Unfit(value, "a path, as text or pathlib.Path")
    try:
        usable = whole != "" and "\0" not in whole
        if usable:
            os.stat(whole)
    except UnicodeEncodeError:
        usable = False
    except OSError as error:  # most of what else is wrong with it matters only to some uses
        usable = error.errno not in (errno.ENAMETOOLONG, errno.ELOOP)
    if not usable:
        raise Unfit(
            whole,
            "a path that a file system can have: not empty, not over-long, no loop of links, and "
            "without null characters",
        )
    return value


def function(value: object) -> object:
    """Anything that can be called."""
    if not callable(value):
        raise Unfit(value, "a function")
    return value


def array(value: object) -> object:
    """An array of numpy with numbers, in one dimension at least."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim:
        return value
    raise Unfit(value, "an array of numbers")
