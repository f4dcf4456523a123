"""Answering queries in packed passes: many texts, many candidates each, one forward.

Candidates follow the cached text as a token tree: every token attends to the cached text
before it and to its own ancestors only, and positions restart at every branch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from coolfusion.backend import Query, Scores
from coolfusion.backends.huggingface.picking import charged, read_scores
from coolfusion.backends.huggingface.slots import SlotCache, Writing
from coolfusion.backends.huggingface.vocabulary import check_ids, vocab_size
from coolfusion.backends.token_tree import Node, Plan, Row

SPARE_ROWS = 4  # texts that keep their cache even when they are asked about one by one
PREFILL = 1024  # most tokens of one text that a pass takes in, which bounds the mask's size

Ints = NDArray[np.int64]


@dataclass(slots=True)
class Place:
    """A row of the cache: what it holds, for which lane, and when it was last used."""

    row: Row = field(default_factory=Row)
    lane: int | None = None
    used: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One row's share of a pass."""

    place: int
    queries: list[Query]
    plan: Plan


@final
class PackedPasses:
    """Scores through one slot cache of at most ``max_rows`` texts."""

    def __init__(self, model: Any, max_rows: int) -> None:
        self._model = model
        self._cache = SlotCache()
        self._places: list[Place] = []
        self._of_lane: dict[int, int] = {}
        self._max_rows = max_rows
        self._vocab_size = vocab_size(model.config)
        self._clock = 0
        self._windows = _windows(model.config)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer queries in order, those about one text from one row of the cache."""
        groups = _grouped(queries)
        answers: dict[int, Scores] = {}
        for start in range(0, len(groups), self._max_rows):
            some = groups[start : start + self._max_rows]
            found = self._answer([[queries[index] for index in group] for group in some])
            for group, scores in zip(some, found, strict=True):
                answers.update(zip(group, scores, strict=True))
        return [answers[index] for index in range(len(queries))]

    def _answer(self, groups: list[list[Query]]) -> list[list[Scores]]:
        """Answer each group from a row of its own, in one pass for all."""
        places = self._claim([group[0] for group in groups])
        try:
            work = [self._plan(place, group) for place, group in zip(places, groups, strict=True)]
            return self._forward(work)
        except BaseException:
            # Interrupted between planning and computing, a row may claim what it does not hold.
            for place in places:
                self._places[place].row = Row()
            raise

    def _plan(self, place: int, queries: list[Query]) -> Work:
        """What a row must compute, its trunk brought up to date and long new prefixes taken in."""
        row = self._places[place].row
        longest = max(queries, key=lambda query: len(query.prefix)).prefix
        self._prefill(place, longest)
        move = row.fold(longest)
        if move is not None:
            self._cache.move(place, move)
        return Work(place, queries, row.plan(queries))

    def _prefill(self, place: int, prefix: tuple[int, ...]) -> None:
        """Take a long new prefix in by pieces, all but its last one."""
        row = self._places[place].row
        if len(prefix) <= PREFILL:
            return
        while len(prefix) - (cached := row.num_cached(prefix)) > PREFILL:
            piece = Query(prefix[: cached + PREFILL])
            self._forward([Work(place, [piece], row.plan([piece]))])
            move = row.fold(prefix)
            if move is not None:
                self._cache.move(place, move)

    def _claim(self, queries: Sequence[Query]) -> list[int]:
        """A row for each query: that of its lane, else a new one, else the one unused for longest.

        No more rows are made than the widest batch needs: their memory is never given back.
        """
        self._clock += 1
        known = [
            self._of_lane.get(query.lane) if query.lane is not None else None for query in queries
        ]
        taken = {place for place in known if place is not None}
        limit = min(self._max_rows, max(SPARE_ROWS, len(queries)))
        for index, query in enumerate(queries):
            place = known[index]
            if place is None:
                known[index] = place = self._settle(query, taken, limit)
                taken.add(place)
            self._places[place].used = self._clock
        return [place for place in known if place is not None]

    def _settle(self, query: Query, taken: set[int], limit: int) -> int:
        """A row for a text that has none, holding as much of it as any row does."""
        place = self._nearest(query, taken) if query.lane is None else None
        if place is not None:
            return place
        if len(self._places) < limit:
            place = len(self._places)
            self._places.append(Place())
        else:
            place = min(
                (p for p in range(len(self._places)) if p not in taken),
                key=lambda p: self._places[p].used,
            )
        lane = self._places[place].lane
        if lane is not None:
            del self._of_lane[lane]
        self._places[place].lane = query.lane
        if query.lane is not None:
            self._of_lane[query.lane] = place
        self._begin(place, query.prefix)
        return place

    def _nearest(self, query: Query, taken: set[int]) -> int | None:
        """The row without a lane that holds most of a query's text, if it holds little else."""
        held = {
            p: self._places[p].row.num_cached(query.prefix)
            for p in range(len(self._places))
            if p not in taken and self._places[p].lane is None
        }
        near = [p for p, num in held.items() if num and 2 * num >= self._places[p].row.num_slots]
        return max(near, key=lambda p: held[p], default=None)

    def _begin(self, place: int, prefix: tuple[int, ...]) -> None:
        """Start a row with the beginning it shares with whatever row shares most."""
        shared = [entry.row.shared(prefix) for entry in self._places]
        best = max(range(len(shared)), key=lambda p: (shared[p], p == place))
        if best != place and shared[best]:
            self._cache.copy(best, place, shared[best])
        self._places[place].row.begin(prefix[: shared[best]])

    def _forward(self, work: Sequence[Work]) -> list[list[Scores]]:
        """Compute the nodes of all rows in one pass and read every query's answer."""
        first = min(entry.place for entry in work)
        rows = slice(first, max(entry.place for entry in work) + 1)
        width = max(len(entry.plan.nodes) for entry in work)
        # Rows between those at work, and rows with fewer tokens, are padded: a copy of
        # their keys and values would cost more. Padding is written behind everything.
        padded = any(len(entry.plan.nodes) < width for entry in work) or len(work) < (
            rows.stop - rows.start
        )
        length = max(entry.row.num_slots for entry in self._places[rows]) + padded
        shape = (rows.stop - rows.start, width)
        ids, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        slots = np.full(shape, length - 1)
        seen = np.zeros((*shape, length), dtype=bool)
        if padded:
            seen[:, :, -1] = True
        for entry in work:
            nodes, at = entry.plan.nodes, entry.place - first
            left = width - len(nodes)
            ids[at, left:] = [node.token for node in nodes]
            positions[at, left:] = [node.position for node in nodes]
            slots[at, left:] = [node.slot for node in nodes]
            seen[at, left:, -1] = False
            _fill_seen(seen[at, left:], nodes, len(self._places[entry.place].row.trunk))
        check_ids(ids, self._vocab_size)
        wanted = [
            (entry.place - first, width - len(entry.plan.nodes) + column)
            for entry in work
            for columns in entry.plan.wanted
            for column in columns
        ]
        earliest = min(column for _, column in wanted)
        self._cache.write_at(Writing(rows, self._on_device(slots), length))
        with torch.inference_mode():
            output = self._model(
                input_ids=self._on_device(ids),
                position_ids=self._on_device(positions),
                attention_mask=self._mask(seen, positions, work, first),
                past_key_values=self._cache,
                use_cache=True,
                **({"logits_to_keep": width - earliest} if self._keeps_logits else {}),
            )
            logits = output.logits[:, earliest - width :]
            lines = logits[[row for row, _ in wanted], [column - earliest for _, column in wanted]]
            answers = read_scores(lines, [query for entry in work for query in entry.queries])
        return _dealt(answers, work)

    def _on_device(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._model.device)

    def _mask(
        self, seen: NDArray[np.bool_], positions: Ints, work: Sequence[Work], first: int
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks (rows, 1, tokens, slots), one for each kind of attention the model has."""
        lowest = torch.finfo(self._model.dtype).min
        masks = {}
        for kind, window in self._windows.items():
            allowed = seen
            if window is not None:
                where = self._positions_of_slots(seen.shape, work, first)
                allowed = seen & (positions[:, :, None] - where[:, None, :] < window)
            additive = np.where(allowed, np.float32(0.0), np.float32(lowest))
            masks[kind] = torch.from_numpy(additive[:, None]).to(
                self._model.device, self._model.dtype
            )
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _positions_of_slots(self, shape: tuple[int, ...], work: Sequence[Work], first: int) -> Ints:
        """(rows, slots): which position of its text the token in each slot has."""
        where = np.broadcast_to(np.arange(shape[2]), (shape[0], shape[2])).copy()
        for entry in work:
            for node in self._places[entry.place].row.nodes():
                where[entry.place - first, node.slot] = node.position
        return where


def _grouped(queries: Sequence[Query]) -> list[list[int]]:
    """Indices of queries that share a row: those of one lane, or with one prefix."""
    groups: dict[int | tuple[int, ...], list[int]] = {}
    for index, query in enumerate(queries):
        key = query.prefix if query.lane is None else query.lane
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _dealt(answers: list[Scores], work: Sequence[Work]) -> list[list[Scores]]:
    """Answers by row; a row's share of the pass is charged to its first query."""
    dealt = []
    start = 0
    for entry in work:
        scores = answers[start : start + len(entry.queries)]
        start += len(scores)
        dealt.append([charged(scores[0], len(entry.plan.nodes), 1), *scores[1:]])
    return dealt


def _windows(config: Any) -> dict[str, int | None]:
    """Attention kinds of a model with their windows (None: everything before)."""
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        kinds = {"sliding_attention" if window else "full_attention"}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def _fill_seen(seen: NDArray[np.bool_], nodes: Sequence[Node], trunk: int) -> None:
    """Mark, for each node, the trunk of ``trunk`` tokens and the node's own path."""
    line = {node: number for number, node in enumerate(nodes)}
    seen[:, :trunk] = True
    for number, node in enumerate(nodes):
        seen[number, node.slot] = True
        before = node.parent
        while before is not None and before not in line:
            seen[number, before.slot] = True
            before = before.parent
        if before is not None:
            seen[number] |= seen[line[before]]
