"""A meter of the work that one rendering of a chat template does."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from jinja2.utils import Namespace

from coolfusion.errors import PromptError

MAX_UNITS = 500_000  # of one rendering: about half a second
MAX_CHARS = 16_000_000  # of any one text
MAX_NUMBER = 1_000_000  # as an argument: the width of a field, the depth of an indentation
_MAX_BITS = 1 << 14  # of a whole number
_UNITS_PER_MESSAGE = 2_000
CHARS_PER_UNIT = 16
_VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
SIZED: Any = (str, bytes, list, tuple, dict, set, frozenset, range, *_VIEWS)


class Meter:
    """Units of work for the rendering that runs in a thread.

    Every method that pays raises ``PromptError`` when no units are left, or when a text, a list or
    a number would be without measure. It does so before that is made.
    """

    def __init__(self) -> None:
        self._rendering = threading.local()

    def begin(self, messages: Any) -> None:
        """Give this thread the units of one rendering: so many, and more for long chats."""
        count = len(messages) if isinstance(messages, list) else 0
        self._rendering.left = MAX_UNITS + _UNITS_PER_MESSAGE * count + _num_chars(messages)

    def charge(self, units: int) -> None:
        """Take ``units`` from what is left. Raises ``PromptError`` when nothing is.

        Outside of a rendering nothing may be computed: it would be when a template is compiled.
        """
        left = getattr(self._rendering, "left", 0) - units
        self._rendering.left = left
        if left < 0:
            raise PromptError(
                f"The chat template works for more than {MAX_UNITS:,} steps on these messages. It "
                "loops, or repeats texts without measure. Use another template or a raw prompt."
            )

    def shown(self, value: Any) -> Any:
        """``value``, whose text costs what its size is, shared parts as often as they stand in it."""
        if isinstance(value, str):
            self.charge(1 + len(value) // CHARS_PER_UNIT)
        elif isinstance(value, (*SIZED, Namespace)):
            self.size(value)
        return value

    def joined(self, *values: Any) -> str:
        """The operator ``~``."""
        self.check_size(sum(self.size(value) for value in values))
        return "".join(map(str, values))

    def check_numbers(self, given: Iterable[Any]) -> None:
        """Refuse whole numbers that no width or count of a template has."""
        for each in given:
            if isinstance(each, int) and abs(each) > MAX_NUMBER:
                raise PromptError(
                    f"The chat template gives a function a number above {MAX_NUMBER:,}, which "
                    "would make a text or list of that size. Use another template or a raw prompt."
                )

    def check_len(self, size: int) -> None:
        """Refuse a text or list of this size, or pay for it."""
        self.check_size(size)
        self.charge(size // CHARS_PER_UNIT)

    def check_size(self, size: int) -> None:
        """Refuse a text or list of this size."""
        if size > MAX_CHARS:
            raise PromptError(
                f"The chat template makes a text or list longer than {MAX_CHARS:,}. Use another "
                "template or a raw prompt."
            )

    def check_bits(self, bits: int) -> None:
        """Refuse a whole number of this size."""
        if bits > _MAX_BITS:
            raise PromptError(
                f"The chat template computes a number of more than {_MAX_BITS:,} bits. Use another "
                "template or a raw prompt."
            )

    def size(self, value: Any) -> int:
        """How long the text of ``value`` is, about; walking it is paid for."""
        size, rest = 0, [value]
        while rest:
            each = rest.pop()
            if isinstance(each, str | bytes):
                size += len(each) + 4
                self.charge(1 + len(each) // CHARS_PER_UNIT)
                continue
            size += 8
            self.charge(1)
            if isinstance(each, dict):
                rest.extend(each)
                rest.extend(each.values())
            elif isinstance(each, Namespace):
                rest.append(object.__getattribute__(each, "_Namespace__attrs"))
            elif isinstance(each, SIZED) and not isinstance(each, range):
                rest.extend(each)
            elif isinstance(each, range):
                self.charge(len(each))
                size += 8 * len(each)
        return size


def _num_chars(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_num_chars, value.values()))
    if isinstance(value, list):
        return sum(map(_num_chars, value))
    return len(value) if isinstance(value, str) else 0
