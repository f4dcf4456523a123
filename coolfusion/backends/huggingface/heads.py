"""Which positions of a pass reach the head of a model, the largest of its products.

Padding, idle rows and tokens that are only read need no logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, final

import torch


@final
class Head:
    """What the ``forward`` of a model takes to compute logits of some positions alone."""

    def __init__(self, model: Any) -> None:
        forward = inspect.unwrap(model.forward)
        self._device = model.device
        self._takes_last = "logits_to_keep" in inspect.signature(forward).parameters
        # Models that call this function of transformers take a mask of places as well. Others
        # index with what they are given, and a mask would be wrong for them.
        code = getattr(forward, "__code__", None)
        self._takes_places = code is not None and "slice_logits_to_keep" in code.co_names

    def last(self, num: int) -> dict[str, Any]:
        """Options of ``forward`` for the last ``num`` positions of every row; none if unknown."""
        return {"logits_to_keep": num} if self._takes_last else {}

    def only(self, places: Sequence[tuple[int, int]], shape: tuple[int, int]) -> dict[str, Any]:
        """Options of ``forward`` for ``places`` (row, column) of a pass of a ``shape``.

        ``lines_at`` reads what comes of them.
        """
        num_rows, width = shape
        num_last = width - min(column for _, column in places)
        if not self._takes_places or len(set(places)) == num_rows * num_last:
            return self.last(num_last)
        kept = torch.zeros(shape, dtype=torch.bool)
        rows, columns = zip(*places, strict=True)
        kept[rows, columns] = True
        return {"logits_to_keep": kept.to(self._device)}


def lines_at(
    logits: torch.Tensor, places: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> torch.Tensor:
    """The logits (places, vocabulary) at ``places`` (row, column) of a pass of a ``shape``.

    ``logits`` are (rows, tokens, vocabulary) of the last tokens, or (tokens, vocabulary) of those
    places alone, row by row.
    """
    if logits.dim() == 2:
        order = {place: line for line, place in enumerate(sorted(set(places)))}
        lines = [order[place] for place in places]
    else:
        # Subtle: counted from the end, this is right for all tokens and for the last ones.
        num_last = logits.shape[1]
        lines = [row * num_last + column - shape[1] + num_last for row, column in places]
        logits = logits.flatten(0, 1)
    if lines == list(range(len(logits))):
        return logits  # the common case of one row, without a copy
    return logits[lines]
