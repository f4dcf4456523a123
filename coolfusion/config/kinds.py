"""What an option is: its name, its values, and where it may be said.

The options themselves stand in ``coolfusion.config.options``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coolfusion.checks.arguments import checked
from coolfusion.errors import UsageError

SEGMENTS: Final = "segments"
MIXTURE: Final = "mixture"
STRATEGIES: Final = (SEGMENTS, MIXTURE)


@checked
def strategy_named(name: str) -> str:
    """The strategy of that name. Raises ``UsageError`` for one that does not exist."""
    if name not in STRATEGIES:
        raise UsageError(f'There is no strategy "{name}". Choose one of {", ".join(STRATEGIES)}.')
    return name


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # a whole number may be larger than any float


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_text, value))


def _are_weights(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(_is_number(weight) and weight > 0 for weight in value.values())


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of values: what a file may hold, and what a word of the command line is read as."""

    fits: Callable[[Any], bool]
    read: Callable[[str], object] = str


TEXT: Final = Kind(_is_text)
NUMBER: Final = Kind(_is_number, float)
COUNT: Final = Kind(_is_count, int)
NUMBER_OR_TEXT: Final = Kind(lambda value: _is_number(value) or _is_text(value))
COUNT_OR_TEXT: Final = Kind(lambda value: _is_count(value) or _is_text(value))
TEXTS: Final = Kind(_are_texts)
TEXT_OR_TEXTS: Final = Kind(lambda value: _is_text(value) or value == [] or _are_texts(value))
WEIGHTS: Final = Kind(_are_weights)
FLAG: Final = Kind(lambda value: isinstance(value, bool))


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a fusion or of a request.

    ``wanted`` says in words what values it may have, ``kind`` and ``check`` test them. None as the
    ``default`` means ``unset``. ``group`` is its heading on the command line. An option of one
    strategy says why it means nothing to the other, in ``segments_only`` or ``mixture_only``.
    ``not_in_file`` and ``not_in_harness`` are reasons why it cannot be said there ("": it can).
    """

    name: str
    group: str
    kind: Kind
    wanted: str
    help: str
    default: object = None
    unset: object = ""
    check: Callable[[Any], object] = lambda _: None
    segments_only: str = ""
    mixture_only: str = ""
    spellings: tuple[str, ...] = ()  # on the command line; (): --name
    metavar: str | None = None
    repeats: bool = False  # on the command line, once for each value
    choices: tuple[str, ...] | None = None
    matters: bool = False  # shown by --help, the others by --help-all
    changes_answers: bool = True
    said_by_default: object = None  # what the command line says of it where nothing is given
    tried: tuple[Any, ...] | None = None  # values that tuning tries; None: it is not tuned
    not_in_file: str = ""
    not_in_harness: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """How it is spelled on the command line."""
        return self.spellings or (f"--{self.name.replace('_', '-')}",)

    @property
    def strategy(self) -> str | None:
        """The strategy it belongs to; None: both."""
        return SEGMENTS if self.segments_only else MIXTURE if self.mixture_only else None

    @property
    def default_text(self) -> str:
        """The default in words."""
        value = self.unset if self.default is None else self.default
        if isinstance(value, bool):
            return "on" if value else "off"
        return "none" if value == () else str(value)

    def check_value(self, value: object) -> None:
        """Raise ``UsageError`` naming the option unless it may have this value."""
        if not self.kind.fits(value):
            raise UsageError(f"{self.name} is {value!r}; it must be {self.wanted}.")
        try:
            self.check(value)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from None


def plain(value: object) -> Any:
    """A value as JSON has it: paths and parts by their names, sequences as lists.

    A function made inside another has no name of its own, so it equals none of another run.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    name = getattr(value, "name", None) or getattr(value, "__qualname__", "<locals>")
    return name if isinstance(name, str) and "<locals>" not in name else repr(value)
