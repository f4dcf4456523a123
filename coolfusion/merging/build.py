"""Merging: from a recipe to a checkpoint on disk, one tensor at a time."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from coolfusion import __version__
from coolfusion.checks.arguments import checked
from coolfusion.documents import check_own_file, json_text, shown
from coolfusion.errors import UsageError
from coolfusion.merging.checkpoint import Checkpoint, TensorInfo
from coolfusion.merging.folder import (
    PROVENANCE,
    check_output,
    check_room,
    new_folder,
    remove_leftovers,
)
from coolfusion.merging.merge_recipe import Merge, MergeRecipe, recipe_dict
from coolfusion.merging.merged import open_recipe
from coolfusion.merging.safetensors_file import write_file
from coolfusion.merging.stored import INDEX, SINGLE

GIGABYTE = 10**9
# Files that are copied from the checkpoint whose tokenizer is kept.
BESIDE = (
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "*.tiktoken", "spiece.model", "generation_config.json", "*.py"),
    *("preprocessor_config.json", "processor_config.json"),
)


@dataclass(frozen=True, slots=True)
class MergeProgress:
    """The progress of a merge; ``name`` is the tensor that was written last."""

    name: str
    num_tensors: int
    all_tensors: int
    num_bytes: int
    all_bytes: int


@checked
def merge(
    recipe: MergeRecipe | Merge,
    output: str | Path,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = 5 * GIGABYTE,
    progress: Callable[[MergeProgress], None] | None = None,
) -> Path:
    """Merge the models of a recipe into a new folder, and return the folder.

    The folder gets safetensors shards, config.json, the tokenizer and merge.json with the
    provenance. A shard has at most ``max_shard_bytes``, or a single larger tensor. The same
    recipe on the same files gives the same bytes. An existing folder is replaced only with
    ``overwrite``, and only if an earlier merge wrote it. Leftovers of killed merges to ``output``
    are removed.

    Raises ``LoadError`` for inputs that cannot be read. Raises ``UsageError`` for inputs that do
    not fit together or an output that cannot be written. Raises ``CoolfusionError`` if writing
    fails. In all cases ``output`` is left as it was.
    """
    recipe = recipe if isinstance(recipe, MergeRecipe) else MergeRecipe(recipe)
    target = Path(os.path.abspath(output))
    remove_leftovers(target)
    check_output(target, overwrite=overwrite)
    if max_shard_bytes < 1:
        raise UsageError(
            f"A shard of {shown(max_shard_bytes)} bytes holds nothing. Give at least 1."
        )
    checkpoint = open_recipe(recipe)
    _check_not_an_input(target, checkpoint)
    beside = sum(file.stat().st_size for file in files_beside(checkpoint.about.tokenizer_folder))
    check_room(target, beside + sum(info.num_bytes for info in checkpoint.about.infos.values()))
    with new_folder(target, overwrite=overwrite) as folder:
        _write_tensors(checkpoint, folder, max_shard_bytes, progress)
        copy_beside(checkpoint.about.tokenizer_folder, folder)
        write_json(folder / PROVENANCE, provenance(recipe, checkpoint))
        # Last, so that a folder is a checkpoint only when it is complete.
        write_config(folder, checkpoint.about.config)
    return target


def provenance(recipe: MergeRecipe, checkpoint: Checkpoint) -> dict[str, Any]:
    """The provenance of a merge: its recipe, versions, and a hash of every input file."""
    infos = checkpoint.about.infos.values()
    return {
        "recipe": recipe_dict(recipe),
        "versions": {
            "coolfusion": __version__,
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
            "python": platform.python_version(),
        },
        "inputs": {str(file): _sha256(file) for file in checkpoint.about.files},
        "num_tensors": len(infos),
        "num_bytes": sum(info.num_bytes for info in infos),
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json_text(value, indent=2) + "\n", encoding="utf-8")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config.json of a checkpoint, with numbers that JSON lacks as transformers does."""
    write_json(folder / "config.json", _with_tagged_floats(config))


def files_beside(source: Path) -> list[Path]:
    """The tokenizer of a checkpoint, and the other files that belong to its weights.

    Raises ``LoadError`` for links that leave the folder, and for what is no file.
    """
    found = dict.fromkeys(file for glob in BESIDE for file in sorted(source.glob(glob)))
    files = [file for file in found if file.is_symlink() or not file.is_dir()]
    for file in files:
        check_own_file(source, file)
    return files


def copy_beside(source: Path, folder: Path) -> None:
    """Copy ``files_beside`` to the folder of a merge, but for those that it has already."""
    for file in files_beside(source):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def _with_tagged_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tagged_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_tagged_floats(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        sign = "-" if value < 0 else ""
        return {"__float__": "NaN" if math.isnan(value) else f"{sign}Infinity"}
    return value


def _write_tensors(
    checkpoint: Checkpoint,
    folder: Path,
    max_shard_bytes: int,
    progress: Callable[[MergeProgress], None] | None,
) -> None:
    infos = checkpoint.about.infos
    total = sum(info.num_bytes for info in infos.values())
    num_tensors = num_bytes = 0

    def read(name: str) -> torch.Tensor:
        nonlocal num_tensors, num_bytes
        tensor = stored(name, checkpoint.read(name), infos[name])
        num_tensors += 1
        num_bytes += infos[name].num_bytes
        if progress is not None:
            progress(MergeProgress(name, num_tensors, len(infos), num_bytes, total))
        return tensor

    shards = list(_shards(infos, max_shard_bytes))
    files = [SINGLE]
    if len(shards) > 1:
        count = len(shards)
        files = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    for file, names in zip(files, shards, strict=True):
        write_file(folder / file, {name: infos[name] for name in names}, read)
    if len(shards) > 1:
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def stored(name: str, tensor: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """A tensor in its stored type. Raises ``UsageError`` if its values do not fit into it."""
    result = tensor.to(info.dtype)
    if info.dtype.is_floating_point and not bool(result.isfinite().all()):
        largest = float(tensor.abs().max())
        raise UsageError(
            f'The merged tensor "{name}" has values up to {largest:.3g}, too large for {info.dtype}. '
            "Use smaller weights or scale, or store it in a wider dtype."
        )
    return result


def _shards(infos: Mapping[str, TensorInfo], max_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, info in infos.items():
        if names and size + info.num_bytes > max_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += info.num_bytes
    yield names


def _check_not_an_input(output: Path, checkpoint: Checkpoint) -> None:
    folders = {file.parent.resolve() for file in checkpoint.about.files}
    if output.resolve() in folders:
        raise UsageError(
            f'"{output}" is one of the checkpoints to be merged. Choose another folder for the result.'
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
