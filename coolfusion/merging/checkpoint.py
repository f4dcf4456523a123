"""The seam of merging: named tensors of one model, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

# The names that safetensors files use. Other types (8-bit floats, packed integers) belong to
# quantised checkpoints, whose numbers mean nothing without their scales.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FLOATS: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes it takes when stored."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint without its numbers.

    ``tied`` names the embedding matrix that is also the output head, where the head has no
    tensor of its own. ``vocabulary`` maps token ids to tokens and is empty where unknown.
    ``tokenizer_folder`` is where the tokenizer's files are; ``files`` is everything the
    checkpoint's contents depend on.
    """

    label: str
    config: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]
    tied: str | None
    vocabulary: Mapping[int, str]
    tokenizer_folder: Path
    files: tuple[Path, ...]


class Checkpoint(Protocol):
    """Anything whose tensors can be had one at a time: a folder, an adapted one, a merge."""

    @property
    def about(self) -> Description:
        """What there is to read."""

    def read(self, name: str) -> torch.Tensor:
        """The tensor, of the shape that ``about`` gives it and at least as precise."""


def wider(dtype: torch.dtype) -> torch.dtype:
    """The type in which tensors of ``dtype`` are computed, so that rounding happens once."""
    return torch.float32 if dtype.itemsize == 2 else torch.float64


def setting(config: Mapping[str, Any], key: str) -> Any:
    """``config[key]``, or that of the text part of a multimodal configuration, or None."""
    if key in config:
        return config[key]
    return (config.get("text_config") or {}).get(key)
