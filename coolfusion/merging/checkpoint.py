"""The interface of a checkpoint: named tensors of one model, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

# The names in safetensors files. Other types (8-bit floats, packed integers) belong to quantised
# checkpoints, whose numbers mean nothing without their scales.
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
    """Type and shape of a tensor, known before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the stored tensor in bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint without its tensors.

    ``ties`` maps tensors that are not stored, such as a tied output head, to those that are used
    in their place. ``vocabulary`` maps token ids to tokens; empty if unknown. ``tokenizer_folder``
    holds the tokenizer's files. ``files`` are all files that the contents depend on.
    """

    label: str
    config: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    vocabulary: Mapping[int, str]
    tokenizer_folder: Path
    files: tuple[Path, ...]


class Checkpoint(Protocol):
    """Anything that reads its tensors one at a time: a folder, an adapted checkpoint, a merge."""

    @property
    def about(self) -> Description:
        """The description of the checkpoint."""

    def read(self, name: str) -> torch.Tensor:
        """The tensor, with the shape in ``about`` and a type at least as precise."""


def wider(dtype: torch.dtype) -> torch.dtype:
    """The type for computing with tensors of ``dtype``, so that a result is rounded once."""
    return torch.float32 if dtype.itemsize == 2 else torch.float64


def setting(config: Mapping[str, Any], key: str) -> Any:
    """``config[key]``, or that of the text part of a multimodal configuration, else None."""
    return config[key] if key in config else text_part(config).get(key)


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the language model inside a multimodal one, else an empty one."""
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else {}
