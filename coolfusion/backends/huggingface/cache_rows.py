"""Which row of the KV cache holds which text, and which row a new text takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.kv_cache import SlotCache
from coolfusion.backends.huggingface.token_tree import CachedText

SPARE_ROWS = 4  # texts that stay cached even if every batch has a single text
IDLE = 64  # calls after which an unused row may be dropped
ALIKE = 64  # new tokens from which on a common beginning is worth a pass of its own


@dataclass(slots=True)
class Place:
    """A row of the cache: the cached text, its sequence id, and the call that last used it."""

    row: CachedText = field(default_factory=CachedText)
    sequence_id: int | None = None
    used: int = 0


@final
class Places:
    """The rows of ``cache``, at most ``max_rows``."""

    def __init__(self, cache: SlotCache, max_rows: int) -> None:
        self._cache = cache
        self._max_rows = max_rows
        self._places: list[Place] = []
        self._place_of: dict[int, int] = {}  # by sequence id
        self._clock = 0

    def __len__(self) -> int:
        return len(self._places)

    def row(self, place: int) -> CachedText:
        """The text that is cached at a place."""
        return self._places[place].row

    def forget(self, place: int) -> None:
        """Treat nothing as cached at a place any more."""
        self._places[place].row = CachedText()

    def claim(self, queries: Sequence[Query]) -> list[int]:
        """A place for each query: that of its sequence, a new one, or the least recently used.

        There are no more places than the widest batch needs, since their memory is rarely given
        back.
        """
        self._clock += 1
        # Places of sequences in this batch are taken from the start: otherwise an earlier query
        # could evict the text of a later one.
        taken = {self._place_of[q.sequence_id] for q in queries if q.sequence_id in self._place_of}
        limit = min(self._max_rows, max(SPARE_ROWS, len(queries)))
        places: list[int] = []
        fresh: list[tuple[int, tuple[int, ...]]] = []
        for query in queries:
            sequence_id = query.sequence_id
            place = (
                self._nearest(query, taken)
                if sequence_id is None
                else self._place_of.get(sequence_id)
            )
            if place is None:
                place = self._assign(sequence_id, taken, limit)
                fresh.append((place, query.prefix))
            places.append(place)
            taken.add(place)
            self._places[place].used = self._clock
        for place, prefix in fresh:
            self._begin(place, prefix)
        return places

    def alike(
        self, places: Sequence[int], texts: Sequence[tuple[int, ...]]
    ) -> list[tuple[list[int], tuple[int, ...]]]:
        """Places whose new texts begin alike, and the ids that each such group has in common.

        At least ``ALIKE`` of them are new to every place. The last token of a text is never among
        them, since its logits are wanted.
        """
        groups: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}
        for place, ids in zip(places, texts, strict=True):
            row = self._places[place].row
            end = len(row.trunk) + ALIKE
            # Only what lies in order can be copied, so a text with a tree is not one of them.
            if len(ids) > end and row.num_slots == row.shared(ids):
                groups.setdefault(ids[:end], {})[place] = ids[:-1]
        found = []
        for group in groups.values():
            first, *others = group.values()
            if others:
                num_alike = min(CachedText(list(first)).shared(ids) for ids in others)
                found.append((list(group), first[:num_alike]))
        return found

    def share(self, places: Sequence[int], ids: tuple[int, ...]) -> None:
        """Begin all ``places`` with the ``ids`` that the first of them has just computed in order."""
        first, *others = places
        self._places[first].row.begin(ids)
        for place in others:
            self._copy(first, place, ids)

    def drop_idle(self) -> None:
        """Drop the last places if they are long unused, before all rows grow."""
        # Only from the end: a place is the index of its row in the buffers. This stops at the
        # latest at a place of the current batch, which was used just now.
        while self._clock - self._places[-1].used > IDLE:
            sequence_id = self._places.pop().sequence_id
            if sequence_id is not None:
                del self._place_of[sequence_id]

    def _assign(self, sequence_id: int | None, taken: set[int], limit: int) -> int:
        """A place for a text that has none."""
        if len(self._places) < limit:
            place = len(self._places)
            self._places.append(Place())
        else:
            free = (place for place in range(len(self._places)) if place not in taken)
            place = min(free, key=lambda place: self._places[place].used)
        before = self._places[place].sequence_id
        if before is not None:
            del self._place_of[before]
        self._places[place].sequence_id = sequence_id
        if sequence_id is not None:
            self._place_of[sequence_id] = place
        return place

    def _nearest(self, query: Query, taken: set[int]) -> int | None:
        """The place without a sequence id that holds most of a query's prefix, if any is near.

        Near means that at least half of its slots hold tokens of the prefix. A place with mostly
        other text probably belongs to another response, which would lose its cache.
        """
        held = {
            p: self._places[p].row.num_cached(query.prefix)
            for p in range(len(self._places))
            if p not in taken and self._places[p].sequence_id is None
        }
        near = [p for p, num in held.items() if num and 2 * num >= self._places[p].row.num_slots]
        return max(near, key=lambda p: held[p], default=None)

    def _begin(self, place: int, prefix: tuple[int, ...]) -> None:
        """Start a place with the longest beginning that any cached text has in common with it."""
        # Only the first slots are copied, as far as they hold the text in order. A new response
        # thus gets a prompt that an earlier one has computed.
        shared = [entry.row.num_in_place(prefix) for entry in self._places]
        best = max(range(len(shared)), key=lambda p: (shared[p], p == place))
        self._copy(best, place, prefix[: shared[best]])

    def _copy(self, source: int, target: int, ids: tuple[int, ...]) -> None:
        """Begin a place with ``ids``, which the trunk of another one, or its own, begins with."""
        # Forgotten first: if the copy is interrupted, the row claims nothing.
        self.forget(target)
        if source != target and ids:
            self._cache.copy(source, target, len(ids), len(self._places))
        self._places[target].row.begin(ids)
