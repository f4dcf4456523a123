"""Merging checkpoints of one architecture into one checkpoint, tensor by tensor.

from coolfusion.merging import Merge, merge
merge(Merge("linear", ("A", "B"), weights=(0.7, 0.3)), "merged")
"""

from __future__ import annotations

from coolfusion.merging.build import MergeProgress, merge
from coolfusion.merging.checkpoint import Checkpoint
from coolfusion.merging.merge_recipe import Adapter, Merge, MergeRecipe
from coolfusion.merging.merged import open_recipe
from coolfusion.merging.methods import METHODS, Inputs, Method, Parameter
from coolfusion.merging.recipe_file import read_recipe

__all__ = [
    "METHODS",
    "Adapter",
    "Checkpoint",
    "Inputs",
    "Merge",
    "MergeProgress",
    "MergeRecipe",
    "Method",
    "Parameter",
    "merge",
    "open_recipe",
    "read_recipe",
]
