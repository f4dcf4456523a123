"""LoRA adapters in peft's layout, applied to a checkpoint when its tensors are read.

An adapted matrix is W + s B A (arXiv 2106.09685, section 4.1).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from coolfusion.errors import LoadError
from coolfusion.merging.adapter_settings import check_settings, check_targeted, scale_of
from coolfusion.merging.agreement import name_in, resized, with_own_tensors
from coolfusion.merging.architecture import architecture_of
from coolfusion.merging.checkpoint import Checkpoint, Description, TensorInfo, wider
from coolfusion.merging.safetensors_file import infos_of, read_tensor
from coolfusion.merging.stored import folder_of, read_json, refuse_pickles, vocabulary_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embeds>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.weight)?"
)
BIAS = re.compile(r"(?P<module>.+)\.lora_B(?:\.default)?\.bias")
WRAPPING = re.compile(r"\.(?:base_layer|modules_to_save|default)(?=\.)")

UNUSED = re.compile(r"\.original_module\.")  # what a trained module stands in for


@dataclass(frozen=True, slots=True)
class Change:
    """An adapter's change of one tensor, by the names of the adapter's tensors.

    ``new`` replaces the tensor. To this are added ``shift`` and the product of ``factors``, which
    are A (r, inputs) and B (outputs, r). ``transposed``: it is stored as (inputs, outputs).
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
        stored = name_in(self.base.about, name) or name
        change = self.changes.get(name)
        if change is None:
            return self.base.read(stored)
        work = wider(self.about.infos[name].dtype)

        def part(key: str) -> torch.Tensor:
            return read_tensor(self.weights, key).to(work)

        tensor = self.base.read(stored).to(work) if change.new is None else part(change.new)
        if change.shift is not None:
            tensor = tensor + change.scale * part(change.shift)
        if change.factors:
            down, up = map(part, change.factors)
            product = up @ down
            tensor = tensor + change.scale * (product.T if change.transposed else product)
        return tensor


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
    check_settings(path, config)
    if not os.path.lexists(folder / WEIGHTS):
        refuse_pickles(folder)
        raise LoadError(f'"{folder}" holds no {WEIGHTS}. Check that the adapter is complete.')
    weights = folder / WEIGHTS
    infos = infos_of(weights)
    changes = _changes(weights, infos, config, base.about)
    about = _with_own_head(path, infos, changes, config, base.about)
    for found in filter(None, map(FACTOR.fullmatch, infos)):  # after ties, which peft follows
        check_targeted(path, found["module"].removeprefix(PREFIX), config)
    about = _with_new_tokens(folder, infos, changes, about)
    for name, change in changes.items():
        _check_fit(str(path), name, change, infos, about)
    about = replace(
        about,
        label=str(path),
        files=(*about.files, folder / CONFIG, weights),
    )
    return AdaptedCheckpoint(base, about, weights, changes)


def _changes(
    weights: Path,
    infos: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    base: Description,
) -> dict[str, Change]:
    """Changes by the name of the tensor that they apply to."""
    path = weights.parent
    changes: dict[str, Change] = {}
    ranks: dict[str, int] = {}
    model = architecture_of(base.config)
    loads_as = str if model is None else model.loads_as
    places = {loads_as(name): name for name in base.infos}

    def stored(name: str) -> str:
        return name if name in base.infos else places.get(loads_as(name), loads_as(name))

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
            ranks[module] = next(iter(infos[key].shape), 0)  # a lone number has no rank
            name = module + ".weight"
            if stored(name) in changes:
                raise _twice(path, stored(name), key)
            # peft, too, believes the module and not the setting.
            flipped = (
                loads_as(name) in model.transposed
                if model is not None and loads_as(name) in model.shapes
                else bool(config.get("fan_in_fan_out"))
            )
            changes[stored(name)] = Change(
                scale_of(path, module, ranks[module], config),
                factors=(key, partner),
                transposed=bool(found["embeds"]) or flipped,
            )
    for key in infos:
        bias = BIAS.fullmatch(key)
        if bias is not None:
            module = bias["module"].removeprefix(PREFIX)
            scale = scale_of(path, module, ranks.get(module, 0), config)
            name = stored(module + ".bias")
            changes[name] = replace(changes.get(name, Change()), scale=scale, shift=key)
        elif FACTOR.fullmatch(key) is None and not UNUSED.search(key):
            name = stored(WRAPPING.sub("", key.removeprefix(PREFIX)))
            before = changes.get(name, Change())
            twice = before.new is not None and not _equal(weights, infos, key, before.new)
            if twice or (before.factors and ".base_layer." not in key):
                raise _twice(path, name, key)
            changes[name] = replace(before, new=key)  # trained whole, or a copy of the base's
    return changes


def _twice(path: Path, name: str, key: str) -> LoadError:
    return LoadError(
        f'The adapter "{path}" changes "{name}" twice; "{key}" is one of the changes, and nothing says '
        "which of them counts. Fetch the adapter again."
    )


def _equal(weights: Path, infos: Mapping[str, TensorInfo], one: str, other: str) -> bool:
    """Whether two tensors are the same: peft may store a trained module under both of its names."""
    same = infos[one] == infos[other]
    return same and torch.equal(read_tensor(weights, one), read_tensor(weights, other))


def _with_own_head(
    path: str | Path,
    infos: Mapping[str, TensorInfo],
    changes: Mapping[str, Change],
    config: Mapping[str, Any],
    base: Description,
) -> Description:
    """The base, with a head of its own if the adapter was trained with one.

    Raises ``LoadError`` for changes of a tied tensor that leave open what the others become.
    """
    tied = {*base.ties, *base.ties.values()}
    touched = tied & set(changes)
    if not touched:
        return base
    name = sorted(touched)[0]
    others = sorted(tied - touched) or sorted(tied - {name})
    if any(changes[each].factors for each in touched):
        raise LoadError(
            f'The adapter "{path}" changes "{name}" by a low-rank sum. In "{base.label}" it is tied: it is also '
            f'"{others[0]}", the embedding and the output head being one. peft trains one of them and changes both '
            "when it merges. Store the head as a tensor of its own first (tie_word_embeddings = false)."
        )
    if touched & set(base.ties):
        return with_own_tensors(base)
    # Stored because tokens were added, and not as a module of its own: peft loads it for both.
    whole = set(config.get("modules_to_save") or ())
    key = changes[name].new
    grown = key is not None and infos[key].shape != base.infos[name].shape
    if config.get("ensure_weight_tying") or (grown and not whole & set(name.split("."))):
        return base
    raise LoadError(
        f'The adapter "{path}" changes "{name}", which is also the output head of "{base.label}", and was '
        "trained without changing the head. Store the head as a tensor of its own first."
    )


def _with_new_tokens(
    folder: Path,
    infos: Mapping[str, TensorInfo],
    changes: Mapping[str, Change],
    base: Description,
) -> Description:
    """The base for as many tokens as the adapter's whole embeddings have, with its tokenizer."""
    about = resized(
        base, {name: infos[change.new].shape for name, change in changes.items() if change.new}
    )
    tokenizer = folder / "tokenizer.json"
    if about is base or not os.path.lexists(tokenizer):
        return about
    return replace(
        about,
        vocabulary=vocabulary_of(tokenizer),
        tokenizer_folder=folder,
        files=(*base.files, tokenizer),
    )


def _check_fit(
    label: str,
    name: str,
    change: Change,
    infos: Mapping[str, TensorInfo],
    base: Description,
) -> None:
    if name not in base.infos:
        raise LoadError(_unplaced(label, name, change, base))
    have = base.infos[name].shape
    shapes: list[tuple[int, ...]] = [
        infos[key].shape for key in (change.new, change.shift) if key is not None
    ]
    if change.factors:
        down, up = (infos[key].shape for key in change.factors)
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise LoadError(
                f'The adapter "{label}" changes "{name}" by {list(up)} times {list(down)}, which is no product of two '
                "matrices. Bake it into its checkpoint with peft first, or fetch it again."
            )
        shapes.append((down[1], up[0]) if change.transposed else (up[0], down[1]))
    for shape in shapes:
        if shape != have:
            reason = (
                "Tokens were added before it was trained, and it does not hold all that has a row per token; resize the "
                "checkpoint first."
                if shape[1:] == have[1:] and change.new is not None
                else "It was trained on another checkpoint; name the right one (on, or --on)."
            )
            raise LoadError(
                f'The adapter "{label}" changes "{name}" as if it were {list(shape)}; in "{base.label}" it is '
                f"{list(have)}. {reason}"
            )


def _unplaced(label: str, name: str, change: Change, base: Description) -> str:
    if change.shift is not None:
        return (
            f'The adapter "{label}" has lora_bias and changes "{name}", but "{base.label}" has no bias there to add it '
            "to; peft cannot merge that either. Use the adapter with peft as it is."
        )
    if re.search(r"\.lora_|token_adapter|trainable_tokens", name):
        return (
            f'The adapter "{label}" holds "{name}", which is no part of a low-rank sum. Bake it into its checkpoint '
            "with peft first."
        )
    return (
        f'The adapter "{label}" changes "{name}", which "{base.label}" has not. '
        "It was trained on another checkpoint; name the right one (on, or --on)."
    )
