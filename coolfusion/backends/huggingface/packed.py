"""Packed forward passes: many texts, with many candidates each, in one call of the model.

The candidates of a text follow it as a token tree. Every token attends to the cached text
before it and to its own ancestors only. Positions restart at every branch. This is the tree
attention of SpecInfer (arXiv 2305.09781) and Medusa (arXiv 2401.10774).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.attention import Reach, fill_seen, reaches
from coolfusion.backends.huggingface.cache_rows import Places
from coolfusion.backends.huggingface.heads import Head, lines_at
from coolfusion.backends.huggingface.kv_cache import SlotCache, Writing
from coolfusion.backends.huggingface.logits import (
    Answer,
    Read,
    charged,
    read_scores,
)
from coolfusion.backends.huggingface.probing import check_ids
from coolfusion.backends.huggingface.products import quick
from coolfusion.backends.huggingface.token_tree import PassPlan
from coolfusion.types import Ints

DENSE = 2  # a pass includes idle rows if they make it at most this many times as large
PADDING = 32  # padded tokens that cost less than one more pass
# The mask has tokens * slots entries: quadratic in a long prompt that is prefilled at once.
PREFILL = 1024  # most tokens of one text that one pass prefills


@dataclass(frozen=True, slots=True)
class Spent:
    """What passes before the last one cost: the tokens they computed, and their number."""

    num_forwarded: int = 0
    num_passes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.num_forwarded + other.num_forwarded, self.num_passes + other.num_passes)


@dataclass(frozen=True, slots=True)
class Work:
    """One row's share of a pass: its queries, the plan that answers them, what it spent before."""

    place: int
    queries: list[Query]
    plan: PassPlan
    spent: Spent = Spent()


@final
class PackedPasses:
    """Answers queries through one KV cache of at most ``max_rows`` texts."""

    def __init__(self, model: Any, size: int, max_rows: int) -> None:
        self._model = quick(model)
        # Slow properties of transformers, so they are read once.
        self._device, self._dtype = model.device, model.dtype
        self._cache = SlotCache()
        self._places = Places(self._cache, max_rows)
        self._max_rows = max_rows
        self._vocab_size = size
        self._reaches = reaches(model.config)
        self._head = Head(model)

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer queries in order; queries about one text share one row of the cache."""
        groups = _grouped(queries)
        answers: dict[int, Answer] = {}
        for start in range(0, len(groups), self._max_rows):
            some = groups[start : start + self._max_rows]
            found = self._answer([[queries[index] for index in group] for group in some], read)
            for group, scores in zip(some, found, strict=True):
                answers.update(zip(group, scores, strict=True))
        return [answers[index] for index in range(len(queries))]

    def _answer(self, groups: list[list[Query]], read: Read[Answer]) -> list[list[Answer]]:
        """Answer each group from a row of its own, in one pass for all."""
        places = self._places.claim([group[0] for group in groups])
        try:
            longest = [max((query.prefix for query in group), key=len) for group in groups]
            spent = self._begin(places, longest)
            work = [
                self._plan(place, group, ids, spent[place])
                for place, group, ids in zip(places, groups, longest, strict=True)
            ]
            if len(work) == 1:
                return self._forward(work, read)
            answers: dict[int, list[Answer]] = {}
            for some in _passes(work):
                answers.update(
                    zip([entry.place for entry in some], self._forward(some, read), strict=True)
                )
            return [answers[place] for place in places]
        except BaseException:
            # A plan enters its tokens into the tree before the pass computes them. If anything
            # stops in between, the row claims keys and values that were never written.
            for place in places:
                self._places.forget(place)
            raise

    def _begin(self, places: list[int], texts: list[tuple[int, ...]]) -> dict[int, Spent]:
        """Compute what new texts have in common once, and each long one in pieces, all but its end.

        Returns what every place has spent.
        """
        spent = dict.fromkeys(places, Spent())
        for alike, ids in self._places.alike(places, texts):
            spent[alike[0]] += self._prefill(alike[0], ids) + self._read(alike[0], ids)
            self._places.share(alike, ids)
        for place, ids in zip(places, texts, strict=True):
            spent[place] += self._prefill(place, ids)
        return spent

    def _plan(self, place: int, queries: list[Query], text: tuple[int, ...], spent: Spent) -> Work:
        """Fold what a text has passed, and plan the pass of its row.

        ``queries`` are about one growing text. ``text``, their longest prefix, says how far it is.
        """
        self._fold(place, text)
        return Work(place, queries, self._places.row(place).plan(queries), spent)

    def _prefill(self, place: int, prefix: tuple[int, ...]) -> Spent:
        """Compute a long new prefix in pieces, all but the last."""
        row = self._places.row(place)
        spent = Spent()
        if len(prefix) <= PREFILL:
            return spent
        while len(prefix) - (cached := row.num_cached(prefix)) > PREFILL:
            spent += self._read(place, prefix[: cached + PREFILL])
            self._fold(place, prefix)
        return spent

    def _read(self, place: int, prefix: tuple[int, ...]) -> Spent:
        """Compute a prefix for its keys and values."""
        # A query without a continuation reads one row of logits, the least a pass can do.
        query = Query(prefix)
        work = Work(place, [query], self._places.row(place).plan([query]))
        self._forward([work], read_scores)
        return Spent(len(work.plan.nodes), 1)

    def _fold(self, place: int, text: tuple[int, ...]) -> None:
        move = self._places.row(place).fold(text)
        if move is not None:
            self._cache.move(place, move)

    def _forward(self, work: Sequence[Work], read: Read[Answer]) -> list[list[Answer]]:
        """Compute the nodes of all rows in one pass, and read the answer of every query.

        ``work`` ascends by place.
        """
        first, last = work[0].place, work[-1].place
        if len(work) * DENSE >= last - first + 1:
            # A slice of rows is a view of the cache. A list of rows would copy their keys and
            # values in every layer, which costs more than to compute padding for idle rows.
            rows: slice | torch.Tensor = slice(first, last + 1)
            at = [entry.place - first for entry in work]
        else:
            rows = self._on_device([entry.place for entry in work])
            at = list(range(len(work)))
        width = max(len(entry.plan.nodes) for entry in work)
        shape = (at[-1] + 1, width)
        padded = len(work) < shape[0] or any(len(entry.plan.nodes) < width for entry in work)
        # Subtle: padding also writes keys and values. It gets one slot more, behind those of
        # every row from first to last, idle ones included, so that it overwrites no token.
        length = max(self._places.row(place).num_slots for place in range(first, last + 1)) + padded
        blank = [0] * width
        ids, positions = [blank] * shape[0], [blank] * shape[0]
        slots = [[length - 1] * width] * shape[0]
        seen = np.zeros((*shape, length), dtype=bool)
        if padded:
            # Padding sees itself: a softmax over nothing is undefined. Tokens never see padding.
            seen[:, :, -1] = True
        wanted: list[tuple[int, int]] = []
        for row, entry in zip(at, work, strict=True):
            nodes = entry.plan.nodes
            # Padding stands on the left: the wanted logits then lie at the end of every row, and
            # a head that can only be told how many of the last to compute is spared all others.
            left = width - len(nodes)
            ids[row] = blank[:left] + [node.token for node in nodes]
            positions[row] = blank[:left] + [node.position for node in nodes]
            slots[row] = slots[row][:left] + [node.slot for node in nodes]
            seen[row, left:, -1] = False
            fill_seen(seen[row, left:], nodes, len(self._places.row(entry.place).trunk))
            wanted += [(row, left + column) for columns in entry.plan.wanted for column in columns]
            check_ids(ids[row], self._vocab_size)
        if length > self._cache.num_slots:
            # All rows of the buffer grow together, so this is the time to give some back.
            self._places.drop_idle()
        where = self._slots(slots)
        self._cache.write_at(Writing(len(self._places), rows, where, length))
        with torch.inference_mode():
            output = self._model(
                input_ids=self._on_device(ids),
                position_ids=self._on_device(positions),
                attention_mask=self._mask(seen, positions, list(zip(at, work, strict=True))),
                past_key_values=self._cache,
                use_cache=True,
                **self._head.only(wanted, shape),
            )
            lines = lines_at(output.logits, wanted, shape)
            answers = read(lines, [query for entry in work for query in entry.queries])
        return _dealt(answers, work)

    def _on_device(self, values: list[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, device=self._device)

    def _slots(self, slots: list[list[int]]) -> slice | torch.Tensor:
        """Slots (rows, tokens); a slice if there is one row and its slots are consecutive."""
        first, num = slots[0][0], len(slots[0])
        if len(slots) == 1 and slots[0] == list(range(first, first + num)):
            return slice(first, first + num)
        return self._on_device(slots)

    def _mask(
        self,
        seen: NDArray[np.bool_],
        positions: list[list[int]],
        work: Sequence[tuple[int, Work]],
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks (rows, 1, tokens, slots), one for each kind of attention of the model."""
        lowest = torch.finfo(self._dtype).min
        masks = {}
        for kind, reach in self._reaches.items():
            allowed = seen
            if reach != Reach():
                # Positions of the text count, not slots. Two siblings at position 9 may lie in
                # slots 9 and 40, and both are 1 away from position 10.
                where = self._positions_of_slots(seen.shape, work)
                at = np.array(positions)[:, :, None]
                allowed = seen & reach.allows(at, where[:, None, :])
            additive = np.where(allowed, np.float32(0.0), np.float32(lowest))
            masks[kind] = torch.from_numpy(additive[:, None]).to(self._device, self._dtype)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _positions_of_slots(self, shape: tuple[int, ...], work: Sequence[tuple[int, Work]]) -> Ints:
        """(rows, slots): the position in its text of the token in each slot."""
        # Trunk tokens lie in the slot of their position. Slots without a token get some number,
        # which does not matter: no token sees them.
        where = np.broadcast_to(np.arange(shape[2]), (shape[0], shape[2])).copy()
        for row, entry in work:
            for node in self._places.row(entry.place).nodes():
                where[row, node.slot] = node.position
        return where


def _grouped(queries: Sequence[Query]) -> list[list[int]]:
    """Indices of the queries that share a row: those of one sequence, or with one prefix."""
    groups: dict[int | tuple[int, ...], list[int]] = {}
    for index, query in enumerate(queries):
        key = query.prefix if query.sequence_id is None else query.sequence_id
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _passes(work: Sequence[Work]) -> list[list[Work]]:
    """Rows grouped into passes, so that those of one pass need at most ``PADDING`` padded tokens."""
    passes: list[list[Work]] = []
    # Longest first: the first row of a pass is its width, and only the last pass can still be
    # near enough to the next row.
    for entry in sorted(work, key=lambda entry: -len(entry.plan.nodes)):
        if passes:
            padding = sum(len(passes[-1][0].plan.nodes) - len(o.plan.nodes) for o in passes[-1])
            padding += len(passes[-1][0].plan.nodes) - len(entry.plan.nodes)
            if padding <= PADDING:
                passes[-1].append(entry)
                continue
        passes.append([entry])
    return [sorted(some, key=lambda entry: entry.place) for some in passes]


def _dealt(answers: list[Answer], work: Sequence[Work]) -> list[list[Answer]]:
    """Answers by row; the cost of a row is charged to its first query."""
    dealt = []
    start = 0
    for entry in work:
        some = answers[start : start + len(entry.queries)]
        start += len(some)
        spent = entry.spent + Spent(len(entry.plan.nodes), 1)
        dealt.append([charged(some[0], spent.num_forwarded, spent.num_passes), *some[1:]])
    return dealt
