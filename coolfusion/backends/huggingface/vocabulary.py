"""Which ids a model takes in; one outside its embedding would bring a GPU process down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coolfusion.errors import SourceError


def vocab_size(config: Any) -> int:
    """Number of ids of a model, from its configuration."""
    return int(config.get_text_config().vocab_size)


def check_ids(ids: NDArray[np.int64], size: int) -> None:
    """Raise ``SourceError`` unless all ids lie below ``size``."""
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        raise SourceError(
            f"An id lies outside the model's vocabulary of {size} (ids {ids.min()} to {ids.max()}). "
            "The tokenizer does not belong to this model."
        )
