"""Passes that are broken in one way each, for whatever has to tell them from right ones.

The model gets other arguments than the passes gave it. So nothing here knows how passes work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from coolfusion.backends.huggingface.logits import read_lines
from coolfusion.backends.huggingface.probing import Passes, difference
from coolfusion.backends.huggingface.trials import PACKED, Sample, passes_of

Change = Callable[[torch.Tensor], torch.Tensor]


def each_mask(change: Change) -> Callable[[dict[str, Any]], None]:
    """A change of every mask of a pass."""

    def changed(asked: dict[str, Any]) -> None:
        mask = asked.get("attention_mask")
        if isinstance(mask, Mapping):
            asked["attention_mask"] = {kind: change(each) for kind, each in mask.items()}
        elif mask is not None:
            asked["attention_mask"] = change(mask)

    return changed


def without_the_farthest(mask: torch.Tensor) -> torch.Tensor:
    """The first token that is seen is hidden, as by a window that is one too short."""
    seen = mask == 0
    return mask.masked_fill(seen & (seen.cumsum(dim=-1) == 1) & (seen.sum(-1, keepdim=True) > 1),
                            torch.finfo(mask.dtype).min)  # fmt: skip


def with_one_more(mask: torch.Tensor) -> torch.Tensor:
    """The first token that is hidden is seen."""
    hidden = mask != 0
    return mask.masked_fill(hidden & (hidden.cumsum(dim=-1) == 1), 0)


def ignore_windows(asked: dict[str, Any]) -> None:
    mask = asked.get("attention_mask")
    if isinstance(mask, Mapping):
        asked["attention_mask"] = dict.fromkeys(mask, mask["full_attention"])


def number_slots(asked: dict[str, Any]) -> None:
    """Branches do not restart at the position after their beginning."""
    if "position_ids" in asked:
        where = asked["position_ids"]
        asked["position_ids"] = where[:, :1] + torch.arange(where.shape[1])


def move_the_last(asked: dict[str, Any]) -> None:
    if "position_ids" in asked:
        asked["position_ids"] = asked["position_ids"].clone()
        asked["position_ids"][:, -1] += 1


def keep_a_stale_slot(asked: dict[str, Any]) -> None:
    """What was written to a slot is that of another token."""
    for layer in asked["past_key_values"].layers:
        with torch.inference_mode():
            if layer.is_initialized and layer.keys.shape[2] > 2:
                layer.keys[:, :, 2] = layer.keys[:, :, 1]
                layer.values[:, :, 2] = layer.values[:, :, 1]


BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "the mask is ignored": each_mask(torch.zeros_like),
    "a mask hides one too many": each_mask(without_the_farthest),
    "a mask shows one too many": each_mask(with_one_more),
    "a window is ignored": ignore_windows,
    "positions count slots": number_slots,
    "one position is off by one": move_the_last,
    "a slot is stale": keep_a_stale_slot,
}
# A short text need not show these in half precision. A miniature does, in single precision.
SUBTLE = ("a window is ignored", "one position is off by one")


class Broken:
    """A model that gets other arguments than its caller gave, where it has a cache."""

    def __init__(self, model: Any, change: Callable[[dict[str, Any]], None]) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **asked: Any) -> Any:
        if asked.get("past_key_values") is not None:
            self._change(asked)
        return self._model(**asked)


def broken_passes(name: str) -> Callable[..., Passes]:
    """``passes_of`` with what ``BROKEN`` says under a name."""

    def passes(kind: str, model: Any, size: int, max_rows: int) -> Passes:
        return passes_of(kind, Broken(model, BROKEN[name]), size, max_rows)

    return passes


def error_of(sample: Sample, make: Callable[..., Passes] = passes_of) -> float:
    """The largest difference of the answers of packed passes to those of the plain pass."""
    passes = make(PACKED, sample.model, sample.size, 2)
    return max(
        difference(lines.logits, sample.expected(query))
        for queries in sample.calls()
        for query, lines in zip(queries, passes.answer(queries, read_lines), strict=True)
    )
