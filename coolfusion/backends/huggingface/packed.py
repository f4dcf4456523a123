"""Answering queries in packed passes: many texts, many candidates each, one forward.

Candidates follow the cached text as a token tree: every token attends to the cached text
before it and to its own ancestors only, and positions restart at every branch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from coolfusion.backend import Query, Sampling, Scores
from coolfusion.backends.huggingface.picking import log_softmax, picks
from coolfusion.backends.huggingface.slots import SlotCache, Writing
from coolfusion.backends.token_tree import Node, Row, ancestors

SPARE_ROWS = 4  # texts that keep their cache even when they are asked about one by one
PREFILL = 1024  # most tokens of one text that a pass takes in, which bounds the mask's size

Key = tuple[Sampling, tuple[int, ...]]


@dataclass(slots=True)
class Cached:
    """A row of the cache: what it holds, for which kind of question, and when it was last used."""

    row: Row
    key: Key
    used: int = 0


@final
class PackedPasses:
    """Scores through one slot cache of at most ``max_rows`` texts."""

    def __init__(self, model: Any, max_rows: int) -> None:
        self._model = model
        self._cache = SlotCache()
        self._rows: list[Cached] = []
        self._max_rows = max_rows
        self._clock = 0
        self._masks = _mask_kinds(model.config)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer queries in order; what is remembered costs no pass."""
        answers: list[Scores | None] = [None] * len(queries)
        groups = self._grouped(queries)
        for start in range(0, len(groups), self._max_rows):
            self._answer_groups(queries, groups[start : start + self._max_rows], answers)
        return [answer for answer in answers if answer is not None]

    def _grouped(self, queries: Sequence[Query]) -> list[list[int]]:
        """Indices of queries that share a row: same kind, and one prefix begins the other."""
        groups: list[list[int]] = []
        for index in sorted(range(len(queries)), key=lambda i: -len(queries[i].prefix)):
            query = queries[index]
            for group in groups:
                longest = queries[group[0]]
                same = (longest.sampling, longest.watch) == (query.sampling, query.watch)
                if same and longest.prefix[: len(query.prefix)] == query.prefix:
                    group.append(index)
                    break
            else:
                groups.append([index])
        return groups

    def _answer_groups(
        self, queries: Sequence[Query], groups: list[list[int]], answers: list[Scores | None]
    ) -> None:
        claimed: list[int] = []
        try:
            self._answer_claiming(queries, groups, answers, claimed)
        except BaseException:
            # Interrupted between planning and computing, a row may claim what it does not hold.
            for place in claimed:
                self._rows[place].row = Row()
            raise

    def _answer_claiming(
        self,
        queries: Sequence[Query],
        groups: list[list[int]],
        answers: list[Scores | None],
        claimed: list[int],
    ) -> None:
        """Answer each group from a row of its own, noted in ``claimed``, in one pass for all."""
        work: list[tuple[int, list[int], list[Node]]] = []
        for group in groups:
            longest = queries[group[0]]
            place = self._claim(longest, claimed, len(groups))
            claimed.append(place)
            row = self._rows[place].row
            moved = row.settle(longest.prefix)
            if moved:
                self._cache.move(place, moved, len(row.trunk) - len(moved))
            for index in group:
                answers[index] = row.answer(queries[index])
            open_ = [index for index in group if answers[index] is None]
            if open_:
                self._prefill(place, queries[open_[0]])
                work.append((place, open_, row.plan([queries[index] for index in open_])))
        if not work:
            return
        self._forward([(place, nodes) for place, _, nodes in work])
        for place, open_, nodes in work:
            row = self._rows[place].row
            row.store(nodes)
            for index in open_:
                found = _read(nodes, queries[index])
                answers[index] = _with_cost(found, len(nodes), first=index == open_[0])

    def _claim(self, query: Query, claimed: list[int], num_texts: int) -> int:
        """The row that shares most with a query, a new one, or the one unused for longest.

        No more rows are made than the widest batch needs: their memory is never given back.
        """
        self._clock += 1
        key = (query.sampling, query.watch)
        free = [place for place in range(len(self._rows)) if place not in claimed]
        fitting = [place for place in free if self._rows[place].key == key]
        shared = {place: self._rows[place].row.shared(query.prefix) for place in fitting}
        held = {place: len(self._rows[place].row.trunk) for place in fitting}
        # A row is not taken from a longer text for the sake of a short common beginning.
        near = [place for place in fitting if shared[place] and 2 * shared[place] >= held[place]]
        full = len(self._rows) >= min(self._max_rows, max(SPARE_ROWS, num_texts))
        if near:
            place = max(near, key=lambda place: (shared[place], -held[place]))
        elif not full:
            place = len(self._rows)
            self._rows.append(Cached(Row(), key))
        else:
            place = min(free, key=lambda p: self._rows[p].used)
            self._rows[place] = Cached(Row(), key)
        self._rows[place].used = self._clock
        return place

    def _prefill(self, place: int, query: Query) -> None:
        """Take a long new prefix in by pieces, all but its last one."""
        row = self._rows[place].row
        while len(query.prefix) - row.shared(query.prefix) > PREFILL:
            end = row.shared(query.prefix) + PREFILL
            nodes = row.plan([Query(query.prefix[:end], (), query.watch, query.sampling)])
            self._forward([(place, nodes)])
            row.store(nodes)

    def _forward(self, work: Sequence[tuple[int, list[Node]]]) -> None:
        """Compute all nodes of all rows in one pass and fill their entries in."""
        width = max(len(nodes) for _, nodes in work)
        length = max(nodes[-1].slot for _, nodes in work) + 2  # the last slot takes padding
        device = self._model.device
        ids = np.zeros((len(work), width), dtype=np.int64)
        positions = np.zeros_like(ids)
        slots = np.full_like(ids, length - 1)
        seen = np.zeros((len(work), width, length), dtype=bool)
        where = np.broadcast_to(np.arange(length), (len(work), length)).copy()
        for index, (_, nodes) in enumerate(work):
            left = width - len(nodes)
            ids[index, left:] = [node.entry.token for node in nodes]
            positions[index, left:] = [node.position for node in nodes]
            slots[index, left:] = [node.slot for node in nodes]
            where[index, slots[index, left:]] = positions[index, left:]
            seen[index, :left, length - 1] = True
            _fill_seen(seen[index, left:], nodes)
        self._cache.writing = Writing(
            [place for place, _ in work], torch.from_numpy(slots).to(device), length
        )
        first_wanted = min(
            width - len(nodes) + next(i for i, node in enumerate(nodes) if node.wanted)
            for _, nodes in work
        )
        options: dict[str, Any] = (
            {"logits_to_keep": width - first_wanted} if self._keeps_logits else {}
        )
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                attention_mask=self._mask(seen, positions, where),
                past_key_values=self._cache,
                use_cache=True,
                **options,
            )
            logits = output.logits[:, first_wanted - width :]
            self._fill_entries(work, logits, width, first_wanted)

    def _mask(
        self, seen: NDArray[np.bool_], positions: NDArray[np.int64], where: NDArray[np.int64]
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks (rows, 1, tokens, slots), one for each kind of attention the model has."""
        distance = positions[:, :, None] - where[:, None, :]
        lowest = torch.finfo(self._model.dtype).min
        masks = {}
        for kind, window in self._masks.items():
            allowed = seen if window is None else seen & (distance < window)
            additive = torch.zeros(allowed.shape, dtype=self._model.dtype)
            additive[torch.from_numpy(~allowed)] = lowest
            masks[kind] = additive[:, None].to(self._model.device)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _fill_entries(
        self,
        work: Sequence[tuple[int, list[Node]]],
        logits: torch.Tensor,
        width: int,
        first_wanted: int,
    ) -> None:
        for index, (place, nodes) in enumerate(work):
            sampling, watch = self._rows[place].key
            wanted = [i for i, node in enumerate(nodes) if node.wanted]
            rows = [width - len(nodes) + i - first_wanted for i in wanted]
            log_probs = log_softmax(logits[index, rows])
            found = picks(log_probs, sampling, watch, [nodes[i].position + 1 for i in wanted])
            for i, pick in zip(wanted, found, strict=True):
                nodes[i].entry.pick = pick
            line = {i: number for number, i in enumerate(wanted)}
            pairs = [(i, line[node.parent]) for i, node in enumerate(nodes) if node.parent in line]
            if pairs:
                tokens = torch.tensor(
                    [nodes[i].entry.token for i, _ in pairs], device=logits.device
                )
                values = log_probs[[number for _, number in pairs], tokens].clamp(max=0.0).tolist()
                for (i, _), value in zip(pairs, values, strict=True):
                    nodes[i].entry.log_prob = value


def _mask_kinds(config: Any) -> dict[str, int | None]:
    """Attention kinds of a model with their windows (None: everything before)."""
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        kinds = {"sliding_attention" if window else "full_attention"}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def _fill_seen(seen: NDArray[np.bool_], nodes: Sequence[Node]) -> None:
    """Mark, for each node, the cached text before its branch and the node's own path."""
    for index, node in enumerate(nodes):
        if node.parent >= 0:
            seen[index] = seen[node.parent]
        else:
            seen[index, : node.attach] = True
        seen[index, node.slot] = True


def _read(nodes: Sequence[Node], query: Query) -> Scores:
    """Collect one query's answer from freshly computed nodes."""
    ids = query.prefix + query.continuation
    path: list[Node] = []
    for index, node in enumerate(nodes):
        if node.position == len(ids) - 1:
            line = [nodes[i] for i in ancestors(nodes, index)][::-1]
            if all(ids[step.position] == step.entry.token for step in line) and (
                line[0].position <= len(query.prefix) - 1
            ):
                path = line
                break
    asked = [node.entry for node in path if node.position >= len(query.prefix) - 1]
    log_probs = [entry.log_prob for entry in asked[1:] if entry.log_prob is not None]
    found = [entry.pick for entry in asked if entry.pick is not None]
    return Scores(
        tuple(log_probs),
        tuple(pick.token for pick in found),
        tuple(pick.log_prob for pick in found),
        tuple(pick.watched for pick in found),
    )


def _with_cost(scores: Scores, num_tokens: int, *, first: bool) -> Scores:
    """The shared pass is charged to the first query of its row."""
    return Scores(
        scores.log_probs,
        scores.picks,
        scores.pick_log_probs,
        scores.watched,
        num_forwarded=num_tokens if first else 0,
        num_passes=1 if first else 0,
    )
