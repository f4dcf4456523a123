"""What a token of a packed pass may attend to: its own path, as far as its layer sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coolfusion.backends.huggingface.token_tree import Node
from coolfusion.types import Ints


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a kind of attention sees: the last ``window`` tokens, those of its own ``chunk``.

    None: everything before.
    """

    window: int | None = None
    chunk: int | None = None

    def allows(self, positions: Ints, where: Ints) -> NDArray[np.bool_]:
        """Whether tokens at ``positions`` may see those at ``where``, by broadcasting."""
        if self.chunk is not None:
            same: NDArray[np.bool_] = positions // self.chunk == where // self.chunk
            return same
        near: NDArray[np.bool_] = positions - where < (self.window or np.inf)
        return near


def reaches(config: Any) -> dict[str, Reach]:
    """Attention kinds of a model and how far they see."""
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        kinds = {"sliding_attention" if window else "full_attention"}
    known = {"sliding_attention": Reach(window=window), "chunked_attention": Reach(chunk=chunk)}
    return {kind: known.get(kind, Reach()) for kind in sorted(kinds)}


def fill_seen(seen: NDArray[np.bool_], nodes: Sequence[Node], trunk: int) -> None:
    """Mark in ``seen`` (nodes, slots) the trunk of ``trunk`` tokens and each node's own path."""
    line = {node: number for number, node in enumerate(nodes)}
    seen[:, :trunk] = True
    for number, node in enumerate(nodes):
        seen[number, node.slot] = True
        before = node.parent
        while before is not None and before not in line:
            seen[number, before.slot] = True
            before = before.parent
        # Subtle: parents come before their children in nodes, so the row of this ancestor is
        # complete and already holds everything above it. A chain of n new tokens takes n steps
        # instead of n * n / 2.
        if before is not None:
            seen[number] |= seen[line[before]]
