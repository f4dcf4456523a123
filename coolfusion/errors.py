"""Everything coolfusion raises on purpose, as one tree.

    CoolfusionError
    ├── UsageError            the caller asked for something that cannot be done; exit code 2
    │   ├── LossyTokenizerError   a tokenizer cannot reproduce text
    │   ├── PromptError           a prompt is empty, too long or of the wrong kind
    │   ├── LoadError             a model folder cannot be used
    │   ├── UnknownOptionError    an option of that name does not exist; a TypeError too
    │   └── UncopyableError       an object holds models and cannot be pickled; a TypeError too
    └── SourceError           a source failed while it was decoding
        ├── NonFiniteError        its model returned NaN or infinity
        ├── ContextLengthError    its context window is full
        ├── SourceUnreachableError  it cannot be reached, and is left alone for a while
        └── BatchError            some rows of a batch failed; it holds the others' results

Messages say what was wrong with its value, why it matters and what to do about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coolfusion.types import Generation


class CoolfusionError(Exception):
    """Base of every error the package raises on purpose."""


class UsageError(CoolfusionError, ValueError):
    """A request that cannot be carried out. Nothing has been changed."""


class LossyTokenizerError(UsageError):
    """A tokenizer that cannot reproduce text from its ids."""


class PromptError(UsageError):
    """A prompt cannot be given to a source."""


class LoadError(UsageError):
    """A model or tokenizer cannot be loaded from the given place."""


class UnknownOptionError(UsageError, TypeError):
    """An option was given that does not exist; the message says which one may be meant."""


class UncopyableError(UsageError, TypeError):
    """An object was to be pickled or copied that holds models, caches or open files."""


class SourceError(CoolfusionError, RuntimeError):
    """A source failed during a response.

    With ``on_source_error="raise"``, ``generation`` holds the text committed before the failure.
    Its steps are there if a whole response was asked for; the caller of ``step`` or ``stream``
    has them already. Otherwise it is None.
    """

    generation: Generation | None = None


class NonFiniteError(SourceError):
    """A model returned NaN or infinity where a log-probability was needed."""


class ContextLengthError(SourceError):
    """A query does not fit into the model's context window."""


class SourceUnreachableError(SourceError):
    """A source cannot be reached: its server is down, or does not answer in time.

    Backends that ask something outside the process raise it. Unlike other failures, it is not
    looked for row by row, and nobody asks the source again before a wait is over. ``retry_after``
    says how long that is, in seconds from now (None: not known). ``ConnectionError`` and
    ``TimeoutError`` of a backend count as this error.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        is_known = retry_after is not None and math.isfinite(retry_after) and retry_after >= 0
        self.retry_after = retry_after if is_known else None


class BatchError(SourceError):
    """Rows of a batch failed, with ``on_source_error="raise"``. The others went on to their end.

    ``errors`` has the error of each row that failed, by its number, as it would be raised for that
    row alone. ``results`` has what the other rows gave, by number; it is empty where they have
    been given already. The cause is the error of the first row that failed.
    """

    def __init__(self, errors: Mapping[int, Exception], results: Mapping[int, Any]) -> None:
        self.errors, self.results = dict(errors), dict(results)
        first = min(self.errors)
        rows = "One row" if len(self.errors) == 1 else f"{len(self.errors)} rows"
        super().__init__(
            f"{rows} of a batch failed, number {first} first: {self.errors[first]} The other rows "
            "are finished, and nothing of them is lost."
        )
        self.__cause__ = self.errors[first]

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchError, (self.errors, self.results), self.__dict__
