"""The merge that the released code of "Mixture of Distributions" (arXiv 2411.00406) computes.

It is measured beside other merges and not shipped: on real weights it returns the base almost
everywhere. As a method of one's own it goes into a ``Merge`` like any other.
"""

from __future__ import annotations

import torch

from coolfusion.merging import Inputs, Method, Parameter


def minmax_threshold(base: torch.Tensor, expert: torch.Tensor, threshold: float) -> torch.Tensor:
    """The expert's entry where the base's own entry is near the base's maximum, else the base's.

    With n = (b - min b) / (max b - min b) it is the base's entry where n < threshold. It mixes no
    distributions. Bell-shaped weights have next to no entries above 0.9 of their range, so
    the result is the base almost everywhere.
    """
    low, high = base.min(), base.max()
    return base.where(base - low < threshold * (high - low), expert)


def _of_mlp(given: Inputs) -> torch.Tensor:
    """The released rule leaves everything but MLP tensors as the base has it."""
    if given.base is None:
        raise ValueError(f"The min-max threshold was given no base for {given.name}.")
    if "mlp" not in given.name or given.base.numel() == 0:
        return given.base
    (expert,) = given.tensors
    return minmax_threshold(given.base, expert, **given.parameters)


MINMAX_THRESHOLD = Method(
    "minmax_threshold",
    _of_mlp,
    needs_base=True,
    num_models=1,
    parameters={"threshold": Parameter(0.9, lambda value: 0 <= value <= 1, "from 0 to 1")},
)
