"""Checkpoints in folders of safetensors shards, opened without reading their tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from coolfusion.backends.naming import is_gguf
from coolfusion.documents import check_own_file, parsed_json, read_file
from coolfusion.errors import LoadError
from coolfusion.merging.architecture import architecture_of, loaded_as, usual_tie
from coolfusion.merging.checkpoint import Description, TensorInfo
from coolfusion.merging.safetensors_file import infos_of, read_tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Files that are fetched from a hub; pickled weights never are.
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A folder as ``save_pretrained`` writes it; ``shards`` maps tensors to their files."""

    about: Description
    shards: Mapping[str, Path]

    def read(self, name: str) -> torch.Tensor:
        """The stored tensor. Raises ``LoadError`` for NaN, infinity and damage."""
        return read_tensor(self.shards[name], name)


def open_stored(path: str | Path) -> StoredCheckpoint:
    """The checkpoint in a folder or of a hub id.

    Only headers are read. Raises ``LoadError`` for missing or damaged files, pickled weights
    and quantised checkpoints.
    """
    folder = folder_of(path)
    config = read_json(folder / "config.json", "is no checkpoint")
    if config.get("quantization_config"):
        raise LoadError(
            f'"{path}" is quantised (its config.json has a quantization_config); merging needs the numbers '
            "themselves. Use the checkpoint from before quantisation."
        )
    shards, infos = _tensors(folder)
    tokenizer = folder / "tokenizer.json"
    has_tokenizer = os.path.lexists(tokenizer)
    files = [folder / "config.json", *dict.fromkeys(shards.values())]
    about = Description(
        label=str(path),
        config=config,
        infos=infos,
        ties={},
        vocabulary=vocabulary_of(tokenizer) if has_tokenizer else {},
        tokenizer_folder=folder,
        files=(*files, *([tokenizer] if has_tokenizer else [])),
    )
    return _with_ties(StoredCheckpoint(about, shards))


def folder_of(path: str | Path) -> Path:
    """The local folder of a path or hub id. Raises ``LoadError`` if there is none."""
    folder = Path(path)
    if is_gguf(path):
        raise LoadError(
            f'"{path}" is a GGUF file, whose quantised weights cannot be merged. Use the checkpoint that it '
            "was made from."
        )
    if os.path.isdir(folder):
        return folder
    if os.path.lexists(folder):
        raise LoadError(f'"{path}" is a file. Give the folder that holds the checkpoint.')
    if str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        raise LoadError(
            f'There is no folder "{path}". Give a folder with a checkpoint in it, or a hub id like "org/name".'
        )
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(WANTED)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoadError(
            f'There is no folder "{path}", and the hub does not give it: {reason} Check the name.'
        ) from error


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """A JSON object. Raises ``LoadError``; ``otherwise`` is its words if the file is missing."""
    if not os.path.lexists(path):
        raise LoadError(
            f'"{path.parent}" {otherwise}: there is no {path.name} in it. Check that the folder is right and complete.'
        )
    check_own_file(path.parent, path)
    try:
        value = parsed_json(read_file(path))
    except OSError as error:
        raise LoadError(f'Cannot read "{path}": {error.strerror}. Fetch the file again.') from error
    except ValueError as error:
        raise LoadError(f'Cannot read "{path}": {error}. Fetch the file again.') from error
    if not isinstance(value, dict):
        raise LoadError(f'"{path}" holds no JSON object. Fetch the file again.')
    return value


def refuse_pickles(folder: Path) -> None:
    """Raise ``LoadError`` if a folder's weights are pickled."""
    pickled = [file for glob in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(glob))]
    if pickled:
        raise LoadError(
            f'"{folder}" has its weights in {pickled[0].name}, a pickle, which can run any code when it is opened. '
            "Convert it to safetensors (save_pretrained does) where you trust it."
        )


def _is_plain(file: object) -> bool:
    """Whether a shard is named by nothing but a file's name, on any system."""
    return isinstance(file, str) and re.fullmatch(r"(?!\.\.?$)[^/\\:\x00-\x1f]+", file) is not None


def _tensors(folder: Path) -> tuple[dict[str, Path], dict[str, TensorInfo]]:
    if os.path.lexists(folder / SINGLE):
        infos = infos_of(folder / SINGLE)
        return dict.fromkeys(infos, folder / SINGLE), infos
    if not os.path.lexists(folder / INDEX):
        refuse_pickles(folder)
        raise LoadError(
            f'"{folder}" holds no weights: there is neither {SINGLE} nor {INDEX} in it. '
            "Check that the folder is right and complete."
        )
    weight_map = read_json(folder / INDEX, "holds no weights").get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_plain, weight_map.values())):
        raise LoadError(
            f'"{folder / INDEX}" has no usable weight_map: shards are files in the same folder, named without one. '
            "Fetch the file again."
        )
    shards = {name: folder / file for name, file in weight_map.items()}
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, path in shards.items():
        if not os.path.lexists(path):
            raise LoadError(
                f'Shard "{path.name}" is missing from "{folder}"; tensor "{name}" should be in it. Fetch it again.'
            )
        if path.name not in found:
            found[path.name] = infos_of(path)
        if name not in found[path.name]:
            raise LoadError(
                f'Tensor "{name}" is not in "{path}", where the index says it is. The index and the shards '
                "are of different checkpoints; fetch them again."
            )
    return shards, {name: found[path.name][name] for name, path in shards.items()}


def _with_ties(checkpoint: StoredCheckpoint) -> StoredCheckpoint:
    """Note which tensors are tied, and drop the stored copies of others.

    Where tied tensors are stored and differ they are not tied, whatever the configuration says.
    Where only the head is stored it stands for the embedding. transformers does the same.
    """
    about = checkpoint.about
    declared = architecture_of(about.config)
    names = declared.ties if declared else usual_tie(about.config, about.infos)
    stored = {loaded_as(about.config, name): name for name in about.infos} if names else {}
    infos = dict(about.infos)
    ties: dict[str, str] = {}
    for source in dict.fromkeys(names.values()):
        group = (source, *(name for name, other in names.items() if other == source))
        used = next((stored[name] for name in group if name in stored), None)
        for name in group:
            key = stored.get(name)
            if used is None or key == used:
                continue
            if key is None:
                ties[name] = used
            elif _equal(checkpoint, key, used):
                ties[name] = used
                del infos[key]
    return replace(checkpoint, about=replace(about, infos=infos, ties=ties))


def _equal(checkpoint: StoredCheckpoint, one: str, other: str) -> bool:
    infos = checkpoint.about.infos
    return infos[one] == infos[other] and torch.equal(checkpoint.read(one), checkpoint.read(other))


def vocabulary_of(path: Path) -> dict[int, str]:
    """Tokens by id, including added tokens, of a ``tokenizer.json``. Raises ``LoadError``."""
    data = read_json(path, "has no tokenizer")
    try:
        pieces = data["model"]["vocab"]
        if isinstance(pieces, dict):
            tokens = {int(number): piece for piece, number in pieces.items()}
        else:
            tokens = {number: piece for number, (piece, _) in enumerate(pieces)}
        return tokens | {int(t["id"]): t["content"] for t in data.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LoadError(
            f'"{path}" lists no vocabulary as the tokenizers library writes it ({error!r}). Fetch it again.'
        ) from error
