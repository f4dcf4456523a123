"""Tensors that a recipe leaves out, and those that no model can do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from coolfusion.errors import UsageError
from coolfusion.merging.checkpoint import Description, TensorInfo, setting

# The last part of the names of fractions that models compute themselves when they are made.
BUFFERS = frozenset("inv_freq original_inv_freq cos_cached sin_cached masked_bias".split())


def without(infos: Mapping[str, TensorInfo], ignore: Sequence[str]) -> dict[str, TensorInfo]:
    """The tensors that no pattern of ``ignore`` matches."""
    return {name: info for name, info in infos.items() if not _matches(name, ignore)}


def check_selection(whole: Sequence[Description], ignore: Sequence[str]) -> None:
    """Raise ``UsageError`` if ``ignore`` leaves out what a model of a merge needs.

    ``whole`` describes the checkpoints with all their tensors. What may be left out are whole
    numbers, buffers, and what one of the checkpoints does without.
    """
    needed = dict.fromkeys(
        name
        for about in whole
        for name, info in about.infos.items()
        if _matches(name, ignore) and not _can_be_missing(name, info, whole)
    )
    if needed:
        first, *others = needed
        more = f" and {len(others)} more" if others else ""
        raise UsageError(
            f'ignore leaves out tensor "{first}"{more}, and a model without that cannot be loaded. It is for buffers '
            "and for tensors that some of the checkpoints do without. Give narrower patterns."
        )


def _can_be_missing(name: str, info: TensorInfo, whole: Sequence[Description]) -> bool:
    last = name.rsplit(".", 1)[-1]
    is_mask = name.endswith("attn.bias") and len(info.shape) == 4  # of GPT-2
    if not info.dtype.is_floating_point or last in BUFFERS or is_mask:
        return True
    # A checkpoint without a head uses its embedding, which says nothing of the others.
    per_token = len(info.shape) == 2 and any(
        info.shape[0] == setting(about.config, "vocab_size") for about in whole
    )
    return not per_token and any(name not in about.infos for about in whole)


def _matches(name: str, ignore: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in ignore)
