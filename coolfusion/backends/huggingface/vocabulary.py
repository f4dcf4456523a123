"""Which ids a model takes in; one outside its embedding would bring a GPU process down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coolfusion.errors import SourceError


def vocab_size(config: Any) -> int:
    """Number of ids of a model, from its configuration."""
    return int(config.get_text_config().vocab_size)


def check_ids(ids: Sequence[int], size: int) -> None:
    """Raise ``SourceError`` unless all ids lie below ``size``."""
    if ids and (min(ids) < 0 or max(ids) >= size):
        raise SourceError(
            f"An id lies outside the model's vocabulary of {size} (ids {min(ids)} to {max(ids)}). "
            "The tokenizer does not belong to this model."
        )
