"""Which row of the cache holds which text, and which is given up for a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.kv_cache import SlotCache
from coolfusion.backends.huggingface.token_tree import CachedText

SPARE_ROWS = 4  # texts that keep their cache even when they are asked about one by one
IDLE = 64  # calls after which a row may be dropped


@dataclass(slots=True)
class Place:
    """A row of the cache: what it holds, for which sequence, and when it was last used."""

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
        self._of_lane: dict[int, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._places)

    def row(self, place: int) -> CachedText:
        """What a place holds."""
        return self._places[place].row

    def forget(self, place: int) -> None:
        """Take nothing for cached at a place any more."""
        self._places[place].row = CachedText()

    def claim(self, queries: Sequence[Query]) -> list[int]:
        """A place for each query: that of its sequence, else a new one, else the one unused for longest.

        No more are made than the widest batch needs: their memory is hardly ever given back.
        """
        self._clock += 1
        taken = {self._of_lane[q.sequence_id] for q in queries if q.sequence_id in self._of_lane}
        limit = min(self._max_rows, max(SPARE_ROWS, len(queries)))
        places: list[int] = []
        fresh: list[tuple[int, tuple[int, ...]]] = []
        for query in queries:
            sequence_id = query.sequence_id
            place = (
                self._nearest(query, taken)
                if sequence_id is None
                else self._of_lane.get(sequence_id)
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

    def drop_idle(self) -> None:
        """Drop the last places if they are long unused, before all rows grow."""
        while self._clock - self._places[-1].used > IDLE:
            sequence_id = self._places.pop().sequence_id
            if sequence_id is not None:
                del self._of_lane[sequence_id]

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
            del self._of_lane[before]
        self._places[place].sequence_id = sequence_id
        if sequence_id is not None:
            self._of_lane[sequence_id] = place
        return place

    def _nearest(self, query: Query, taken: set[int]) -> int | None:
        """The place without a sequence id that holds most of a query's text, if it holds little else."""
        held = {
            p: self._places[p].row.num_cached(query.prefix)
            for p in range(len(self._places))
            if p not in taken and self._places[p].sequence_id is None
        }
        near = [p for p, num in held.items() if num and 2 * num >= self._places[p].row.num_slots]
        return max(near, key=lambda p: held[p], default=None)

    def _begin(self, place: int, prefix: tuple[int, ...]) -> None:
        """Start a place with the beginning it shares with whatever row shares most."""
        shared = [entry.row.shared(prefix) for entry in self._places]
        best = max(range(len(shared)), key=lambda p: (shared[p], p == place))
        self.forget(place)  # should copying be interrupted
        if best != place and shared[best]:
            self._cache.copy(best, place, shared[best], len(self._places))
        self._places[place].row.begin(prefix[: shared[best]])
