"""One safetensors file: its header, one tensor of it, and writing one tensor by tensor.

The safetensors library reads. It writes only files whose tensors are all in memory, so writing is
done here. The format is eight bytes of length, a JSON header and the numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from coolfusion.documents import check_own_file, json_text
from coolfusion.errors import LoadError
from coolfusion.merging.checkpoint import DTYPES, TensorInfo

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def infos_of(path: Path) -> dict[str, TensorInfo]:
    """Type and shape of every tensor of a file of a checkpoint.

    Raises ``LoadError`` for an unusable file and for a link that leaves the folder.
    """
    check_own_file(path.parent, path)
    infos = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                part = file.get_slice(name)
                infos[name] = TensorInfo(
                    _known(path, name, part.get_dtype()), tuple(part.get_shape())
                )
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return infos


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor. Raises ``LoadError`` if it cannot be read or holds NaN or infinity."""
    try:
        with safe_open(str(path), framework="pt") as file:
            tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        count = tensor.numel() - int(tensor.isfinite().sum())
        raise LoadError(
            f'Tensor "{name}" in "{path}" holds {count} of {tensor.numel()} values that are NaN or infinite; '
            "they would spread through the merge. Use a checkpoint from before training broke."
        )
    return tensor


def write_file(
    path: Path, infos: Mapping[str, TensorInfo], read: Callable[[str], torch.Tensor]
) -> None:
    """Write a new file with one tensor in memory at a time.

    ``read`` is called once per name and returns a tensor of the shape and type in ``infos``. The
    widest types come first, so every tensor starts at a multiple of its own width.
    """
    ordered = sorted(infos, key=lambda name: -infos[name].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        begin, end = end, end + infos[name].num_bytes
        header[name] = {
            "dtype": NAMES[infos[name].dtype],
            "shape": list(infos[name].shape),
            "data_offsets": [begin, end],
        }
    text = json_text(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            tensor = read(name).contiguous().reshape(-1)
            file.write(tensor.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _known(path: Path, name: str, dtype: str) -> torch.dtype:
    if dtype not in DTYPES:
        raise LoadError(
            f'Tensor "{name}" in "{path}" is of type {dtype}, which only quantised checkpoints use; '
            "merging needs the numbers themselves. Use the checkpoint from before quantisation."
        )
    return DTYPES[dtype]


def _unreadable(path: Path, error: Exception) -> LoadError:
    return LoadError(
        f'Cannot read "{path}": {error}. The file is cut short, damaged or no safetensors file; fetch it again.'
    )
