"""A key-value cache whose tokens live in numbered slots that may be written in any order.

Which slots a query may see is the attention mask's business. Buffers grow by chunks, so
neither appending a token nor dropping one copies what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

CHUNK = 256  # slots by which a buffer grows


@dataclass(frozen=True, slots=True)
class Writing:
    """Where a pass puts its keys and values.

    ``rows`` are buffer rows, ``slots`` is (rows, tokens), and attention reads the first
    ``length`` slots of each row.
    """

    rows: Sequence[int]
    slots: torch.Tensor
    length: int

    @property
    def run(self) -> slice | None:
        """The rows as a slice, where they follow one another."""
        first = self.rows[0]
        consecutive = list(self.rows) == list(range(first, first + len(self.rows)))
        return slice(first, first + len(self.rows)) if consecutive else None


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, slots, head size)."""

    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Note the shapes; buffers are made by ``reserve``."""
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def reserve(self, num_rows: int, num_slots: int) -> None:
        """Make room for at least this many rows and slots."""
        rows, _, slots, _ = self.keys.shape
        if rows >= num_rows and slots >= num_slots:
            return
        slots = max(slots, -(-num_slots // CHUNK) * CHUNK)
        self.keys = _grown(self.keys, max(rows, num_rows), slots)
        self.values = _grown(self.values, max(rows, num_rows), slots)

    def write(
        self, keys: torch.Tensor, values: torch.Tensor, writing: Writing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values and return all that the pass may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.reserve(max(writing.rows) + 1, writing.length)
        rows = torch.tensor(list(writing.rows), device=keys.device)
        self.keys[rows[:, None], :, writing.slots] = keys.transpose(1, 2)
        self.values[rows[:, None], :, writing.slots] = values.transpose(1, 2)
        seen: slice | torch.Tensor = rows if writing.run is None else writing.run
        return self.keys[seen, :, : writing.length], self.values[seen, :, : writing.length]

    def move(self, row: int, slots: Sequence[int], start: int) -> None:
        """Copy ``slots`` of a row to the slots from ``start`` on."""
        if not self.is_initialized or list(slots) == list(range(start, start + len(slots))):
            return
        index = torch.tensor(list(slots), device=self.keys.device)
        self.keys[row, :, start : start + len(slots)] = self.keys[row, :, index]
        self.values[row, :, start : start + len(slots)] = self.values[row, :, index]

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
    """All layers of one model, written as the current ``writing`` says."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self.writing: Writing | None = None

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
        return self.layers[layer_idx].write(key_states, value_states, self.writing)

    def move(self, row: int, slots: Sequence[int], start: int) -> None:
        """Copy slots of a row in every layer."""
        with torch.inference_mode():
            for layer in self.layers:
                layer.move(row, slots, start)


def _grown(buffer: torch.Tensor, num_rows: int, num_slots: int) -> torch.Tensor:
    rows, heads, slots, size = buffer.shape
    grown = buffer.new_zeros((num_rows, heads, num_slots, size))
    grown[:rows, :, :slots] = buffer
    return grown
