"""A KV cache whose tokens lie in numbered slots that may be written in any order.

The attention mask decides which slots a token may see. Buffers grow by chunks, so most appends
copy nothing, and a rollback never does.
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

    ``rows`` are those of the buffer's ``num_rows`` that take part. ``slots`` is (rows, tokens),
    or a slice if there is one row and its slots are consecutive. Attention reads the first
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
        """Make room for this many rows and slots; a buffer that grows drops the rows beyond."""
        rows, _, slots, _ = self.keys.shape
        if rows >= num_rows and slots >= num_slots:
            return
        slots = max(slots, -(-num_slots // CHUNK) * CHUNK)  # rounded up to whole chunks
        self.keys = _resized(self.keys, num_rows, slots)
        self.values = _resized(self.values, num_rows, slots)

    def write(
        self, keys: torch.Tensor, values: torch.Tensor, writing: Writing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values, and return those that the pass may attend to.

        ``keys`` and ``values`` are (rows, heads, tokens, head size). The result is (rows, heads,
        length, head size): views if ``writing.rows`` is a slice, copies otherwise.
        """
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.reserve(writing.num_rows, writing.length)
        rows, slots = writing.rows, writing.slots
        if isinstance(slots, slice):
            self.keys[rows, :, slots] = keys
            self.values[rows, :, slots] = values
        elif isinstance(rows, slice):
            # A slice is a view, so scatter_ writes into the buffer itself. All padding of a row
            # shares one slot, where any of the writes may win: only padding reads it.
            # Keys and values may differ in width, as in multi-head latent attention.
            index = slots[:, None, :, None]
            self.keys[rows].scatter_(2, index.expand_as(keys), keys)
            self.values[rows].scatter_(2, index.expand_as(values), values)
        else:
            # Subtle: with a slice between two index tensors, torch puts the indexed axes first.
            # The place to write is (rows, tokens, heads, size), hence the transposition.
            self.keys[rows[:, None], :, slots] = keys.transpose(1, 2)
            self.values[rows[:, None], :, slots] = values.transpose(1, 2)
        return self.keys[rows, :, : writing.length], self.values[rows, :, : writing.length]

    def move(self, row: int, index: torch.Tensor, start: int) -> None:
        """Copy the slots ``index`` of a row to the slots from ``start`` on."""
        # Both may overlap: an index tensor gathers into new memory before anything is written.
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
        """(slots, offset) for masks that transformers makes; unused, since masks are given."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Slots in the buffer."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class SlotCache(Cache):
    """The KV cache of all layers of one model. ``write_at`` must precede every pass."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)
        self._writing: Writing | None = None

    def write_at(self, writing: Writing) -> None:
        """Set where the coming pass puts its keys and values."""
        self._writing = writing

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what an attention layer computed for the tokens of this pass; called by layers."""
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer())
        return self.layers[layer_idx].write(key_states, value_states, self._writing)

    @property
    def num_slots(self) -> int:
        """Slots of each row at present."""
        return self.layers[0].get_seq_length() if self.layers else 0

    def move(self, row: int, move: Move) -> None:
        """Copy slots of a row in every layer."""
        # A text without branches is already in order, so its leading slots are not copied.
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
        """Copy the first ``num_slots`` slots of a row to another, of ``num_rows`` in all."""
        with torch.inference_mode():
            for layer in self.layers:
                layer.reserve(num_rows, num_slots)
                layer.copy(source, target, num_slots)


def _resized(buffer: torch.Tensor, num_rows: int, num_slots: int) -> torch.Tensor:
    rows, heads, slots, size = buffer.shape
    # Zeros, not empty memory: a masked slot has weight 0, and 0 times NaN would be NaN.
    resized = buffer.new_zeros((num_rows, heads, num_slots, size))
    kept = min(rows, num_rows)
    resized[:kept, :, :slots] = buffer[:kept]
    return resized
