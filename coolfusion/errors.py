"""Everything coolfusion raises on purpose, as one tree.

    CoolfusionError
    ├── UsageError            the caller asked for something that cannot be done; exit code 2
    │   ├── LossyTokenizerError   a tokenizer cannot reproduce text
    │   ├── PromptError           a prompt is empty, too long or of the wrong kind
    │   ├── LoadError             a model folder cannot be used
    │   └── UnknownOptionError    an option of that name does not exist; a TypeError too
    └── SourceError           a source failed while it was decoding
        ├── NonFiniteError        its model returned NaN or infinity
        └── ContextLengthError    its context window is full

Messages say what was wrong with its value, why it matters and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class SourceError(CoolfusionError, RuntimeError):
    """A source failed during a response.

    With ``on_source_error="raise"``, ``generation`` holds the text committed before the failure.
    It has no steps, since the caller of ``step`` or ``stream`` has them. Otherwise it is None.
    """

    generation: Generation | None = None


class NonFiniteError(SourceError):
    """A model returned NaN or infinity where a log-probability was needed."""


class ContextLengthError(SourceError):
    """A query does not fit into the model's context window."""
