"""LoRA adapters in peft's layout, applied to a checkpoint when its tensors are read.

An adapted matrix is W + s B A (arXiv 2106.09685, section 4.1). The scale s is alpha / r, or
alpha / sqrt(r) for rank-stabilised adapters (arXiv 2312.03732).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from coolfusion.errors import LoadError
from coolfusion.merging.checkpoint import Checkpoint, Description, TensorInfo, wider
from coolfusion.merging.safetensors_file import infos_of, read_tensor
from coolfusion.merging.stored import folder_of, read_json, refuse_pickles

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Variants whose result is not W + s B A.
UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication"),
    *("target_parameters", "trainable_token_indices", "arrow_config", "kasa_config"),
    *("monteclora_config", "velora_config"),
)
FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embeds>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.weight)?"
)
BIAS = re.compile(r"(?P<module>.+)\.lora_B(?:\.default)?\.bias")
WRAPPING = re.compile(r"\.(?:base_layer|modules_to_save|default)(?=\.)")


@dataclass(frozen=True, slots=True)
class Change:
    """An adapter's change of one tensor, by the names of the adapter's tensors.

    ``factors`` are A (r, inputs) and B (outputs, r). ``shift`` is added to the tensor, ``new``
    replaces it. ``transposed``: the tensor is stored as (inputs, outputs).
    """

    scale: float = 1.0
    factors: tuple[str, str] | tuple[()] = ()
    transposed: bool = False
    shift: str | None = None
    new: str | None = None


@dataclass(frozen=True, slots=True)
class AdaptedCheckpoint:
    """A checkpoint with an adapter; sums are computed when a tensor is read."""

    base: Checkpoint
    about: Description
    weights: Path
    changes: Mapping[str, Change]

    def read(self, name: str) -> torch.Tensor:
        """The adapted tensor in the wider type, so that small changes are not rounded away."""
        change = self.changes.get(name)
        if change is None:
            return self.base.read(name)
        work = wider(self.about.infos[name].dtype)
        if change.new is not None:
            return read_tensor(self.weights, change.new).to(work)
        tensor = self.base.read(name).to(work)
        if change.shift is not None:
            return tensor + change.scale * read_tensor(self.weights, change.shift).to(work)
        down, up = (read_tensor(self.weights, key).to(work) for key in change.factors)
        product = up @ down
        return tensor + change.scale * (product.T if change.transposed else product)


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    folder = folder_of(path)
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


def base_of(path: str | Path) -> str:
    """The checkpoint that an adapter was trained on. Raises ``LoadError`` if it names none."""
    named = read_json(folder_of(path) / CONFIG, "is no adapter").get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise LoadError(
            f'The adapter "{path}" does not say which checkpoint it belongs to. Name it (on, or --on).'
        )
    return named


def open_adapted(path: str | Path, base: Checkpoint) -> AdaptedCheckpoint:
    """``base`` with the adapter in a folder.

    Raises ``LoadError`` for pickled or damaged adapters and for variants of LoRA that are no
    low-rank sum. Raises it too for tensors that ``base`` lacks or has in another shape.
    """
    folder = folder_of(path)
    config = read_json(folder / CONFIG, "is no adapter")
    _check_kind(path, config)
    if not os.path.lexists(folder / WEIGHTS):
        refuse_pickles(folder)
        raise LoadError(f'"{folder}" holds no {WEIGHTS}. Check that the adapter is complete.')
    weights = folder / WEIGHTS
    infos = infos_of(weights)
    changes = _changes(path, infos, config)
    for name, change in changes.items():
        _check_fit(str(path), name, change, infos, base.about)
    about = replace(
        base.about,
        label=str(path),
        files=(*base.about.files, folder / CONFIG, weights),
    )
    return AdaptedCheckpoint(base, about, weights, changes)


def _check_kind(path: str | Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise LoadError(
            f'The adapter "{path}" is of type {config.get("peft_type")!r}; only LORA is a sum of '
            "low-rank matrices. Bake it into its checkpoint with peft first."
        )
    used = next((key for key in UNSUPPORTED if config.get(key)), None)
    if used is not None:
        raise LoadError(
            f'The adapter "{path}" uses {used}, which is more than a low-rank sum. '
            "Bake it into its checkpoint with peft first."
        )


def _changes(
    path: str | Path, infos: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> dict[str, Change]:
    """Changes by the name of the tensor that they apply to."""
    changes: dict[str, Change] = {}
    ranks: dict[str, int] = {}
    for key in infos:
        found = FACTOR.fullmatch(key)
        if found is None:
            continue
        module = found["module"].removeprefix(PREFIX)
        side, other = ("_A", "_B") if found["side"] == "A" else ("_B", "_A")
        partner = other.join(key.rsplit(side, 1))
        if partner not in infos:
            raise LoadError(
                f'Tensor "{key}" of the adapter "{path}" has no partner "{partner}". Fetch the adapter again.'
            )
        if side == "_A":
            ranks[module] = infos[key].shape[0]
            changes[module + ".weight"] = Change(
                _scale(path, module, ranks[module], config),
                factors=(key, partner),
                transposed=bool(found["embeds"] or config.get("fan_in_fan_out")),
            )
    for key in infos:
        bias = BIAS.fullmatch(key)
        if bias is not None:
            module = bias["module"].removeprefix(PREFIX)
            scale = _scale(path, module, ranks.get(module, 0), config)
            changes[module + ".bias"] = Change(scale, shift=key)
        elif FACTOR.fullmatch(key) is None:
            name = WRAPPING.sub("", key.removeprefix(PREFIX))
            if name not in changes:
                changes[name] = Change(new=key)  # trained whole
            elif ".base_layer." not in key:  # that one is a copy of the base's, below its factors
                raise LoadError(
                    f'The adapter "{path}" changes "{name}" twice; "{key}" is one of the changes, and nothing says '
                    "which of them counts. Fetch the adapter again."
                )
    return changes


def _scale(path: str | Path, module: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    special = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = config.get("lora_alpha") if special is None else patterns[special]
    if not isinstance(alpha, (int, float)) or rank == 0:
        raise LoadError(
            f'The adapter "{path}" has lora_alpha = {alpha!r} and rank {rank} for "{module}", which is no scale. '
            "Fetch the adapter again."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_fit(
    label: str,
    name: str,
    change: Change,
    infos: Mapping[str, TensorInfo],
    base: Description,
) -> None:
    if name not in base.infos:
        raise LoadError(
            f'The adapter "{label}" changes "{name}", which "{base.label}" has not. '
            "It was trained on another checkpoint; name the right one (on, or --on)."
        )
    have = base.infos[name].shape
    shape: tuple[int, ...]
    if change.factors:
        down, up = (infos[key].shape for key in change.factors)
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise LoadError(
                f'The adapter "{label}" changes "{name}" by {list(up)} times {list(down)}, which is no product of two '
                "matrices. Bake it into its checkpoint with peft first, or fetch it again."
            )
        shape = (up[0], down[1])
        shape = shape[::-1] if change.transposed else shape
    else:
        shape = infos[change.new or change.shift or ""].shape
    if shape != have:
        raise LoadError(
            f'The adapter "{label}" changes "{name}" as if it were {list(shape)}; in "{base.label}" it is {list(have)}. '
            "It was trained on another checkpoint; name the right one (on, or --on)."
        )
    if name in base.ties.values():
        raise LoadError(
            f'The adapter "{label}" changes "{name}", which is also the output head of "{base.label}", and was '
            "trained without changing the head. Store the head as a tensor of its own first."
        )
