"""A key-value cache whose tokens live in numbered slots that may be written in any order.

Which slots a query may see is the attention mask's business. Buffers grow by chunks, so
neither appending a token nor dropping one copies what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from coolfusion.backends.huggingface.token_tree import Move

CHUNK = 256  # slots by which a buffer grows


@dataclass(frozen=True, slots=True)
class Writing:
    """Where a pass puts its keys and values.

    ``rows`` are those of the buffer's ``num_rows`` that take part. ``slots`` is (rows,
    tokens), or a slice where one row's tokens follow one another. Attention reads the first
    ``length`` slots of each row.
    """

    num_rows: int
    rows: slice | torch.Tensor
    slots: slice | torch.Tensor
    length: int


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, slots, head size)."""

    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Note the shapes; buffers are made by ``reserve``."""
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def reserve(self, num_rows: int, num_slots: int) -> None:
        """Make room for this many rows and slots; rows beyond are given back if it must grow."""
        rows, _, slots, _ = self.keys.shape
        if rows >= num_rows and slots >= num_slots:
            return
        slots = max(slots, -(-num_slots // CHUNK) * CHUNK)
        self.keys = _resized(self.keys, num_rows, slots)
        self.values = _resized(self.values, num_rows, slots)

    def write(
        self, keys: torch.Tensor, values: torch.Tensor, writing: Writing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values and return all that the pass may attend to, as views if it can."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.reserve(writing.num_rows, writing.length)
        rows, slots = writing.rows, writing.slots
        if isinstance(slots, slice):
            self.keys[rows, :, slots] = keys
            self.values[rows, :, slots] = values
        elif isinstance(rows, slice):
            index = slots[:, None, :, None].expand_as(keys)
            self.keys[rows].scatter_(2, index, keys)
            self.values[rows].scatter_(2, index, values)
        else:
            self.keys[rows[:, None], :, slots] = keys.transpose(1, 2)
            self.values[rows[:, None], :, slots] = values.transpose(1, 2)
        return self.keys[rows, :, : writing.length], self.values[rows, :, : writing.length]

    def move(self, row: int, index: torch.Tensor, start: int) -> None:
        """Copy the slots ``index`` of a row to the slots from ``start`` on."""
        end = start + len(index)
        self.keys[row, :, start:end] = self.keys[row, :, index]
        self.values[row, :, start:end] = self.values[row, :, index]

    def copy(self, source: int, target: int, num_slots: int) -> None:
        """Copy the first slots of one row to another."""
        self.keys[target, :, :num_slots] = self.keys[source, :, :num_slots]
        self.values[target, :, :num_slots] = self.values[source, :, :num_slots]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Not for direct use: ``SlotCache`` knows where to write."""
        raise TypeError("A slot layer is written through its SlotCache.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(slots, offset) as transformers asks for it; masks are always given, so it is unused."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Slots in the buffer."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class SlotCache(Cache):
    """All layers of one model, written as ``write_at`` said."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self._writing: Writing | None = None

    def write_at(self, writing: Writing) -> None:
        """Say where the coming pass puts its keys and values."""
        self._writing = writing

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by attention layers with what they computed for the tokens of this pass."""
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer())
        return self.layers[layer_idx].write(key_states, value_states, self._writing)

    @property
    def num_slots(self) -> int:
        """Slots that rows have at present."""
        return self.layers[0].get_seq_length() if self.layers else 0

    def move(self, row: int, move: Move) -> None:
        """Copy slots of a row in every layer."""
        places = range(move.start, move.start + len(move.slots))
        settled = next(
            (
                i
                for i, (slot, place) in enumerate(zip(move.slots, places, strict=True))
                if slot != place
            ),
            len(move.slots),
        )
        if settled == len(move.slots):
            return
        with torch.inference_mode():
            for layer in self.layers:
                index = torch.tensor(move.slots[settled:], device=layer.keys.device)
                layer.move(row, index, move.start + settled)

    def copy(self, source: int, target: int, num_slots: int, num_rows: int) -> None:
        """Give a row, of ``num_rows``, the beginning of another."""
        with torch.inference_mode():
            for layer in self.layers:
                layer.reserve(num_rows, num_slots)
                layer.copy(source, target, num_slots)


def _resized(buffer: torch.Tensor, num_rows: int, num_slots: int) -> torch.Tensor:
    rows, heads, slots, size = buffer.shape
    resized = buffer.new_zeros((num_rows, heads, num_slots, size))
    kept = min(rows, num_rows)
    resized[:kept, :, :slots] = buffer[:kept]
    return resized
