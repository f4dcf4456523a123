"""Passes for models without rollback or custom masks: snapshots of their state.

Recurrent and hybrid architectures have a running state, which is copied before each use.
Candidates of one prefix form a padded batch of copies. Padding comes last, where no real token
sees it.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.heads import Head
from coolfusion.backends.huggingface.logits import (
    Answer,
    Lines,
    Read,
    charged,
    read_lines,
)
from coolfusion.backends.huggingface.probing import Passes, check_ids
from coolfusion.backends.huggingface.products import quick

MAX_SNAPSHOTS = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's state after some ids, and the logits (1, vocabulary) of the next token."""

    cache: Any
    logits: torch.Tensor


@final
class SnapshotPasses:
    """Answers queries through copies of the model's own cache.

    ``step`` is the most tokens that one pass may add to a state (None: any number). Some
    recurrent models accept one at a time after the first pass. ``step=0`` keeps no state and
    recomputes everything.
    """

    def __init__(self, model: Any, size: int, step: int | None) -> None:
        self._model = quick(model)
        self._head = Head(model)
        self._size = size
        self._step = step
        self._snapshots: OrderedDict[tuple[int, ...], Snapshot] = OrderedDict()
        names = inspect.signature(model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in names else "cache_params"

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer queries in order; queries with the same prefix share a pass."""
        answers: dict[int, Answer] = {}
        for prefix in dict.fromkeys(query.prefix for query in queries):
            indices = [index for index, query in enumerate(queries) if query.prefix == prefix]
            found = self._answer([queries[i] for i in indices], read)
            answers.update(zip(indices, found, strict=True))
        return [answers[index] for index in range(len(queries))]

    def _answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        if self._step == 0 and any(query.continuation for query in queries):
            return self._recomputed(queries, read)
        snapshot, num_forwarded, num_passes = self._advance(queries[0].prefix)
        longest = max(len(query.continuation) for query in queries)
        lines = [[snapshot.logits] for _ in queries]
        if longest:
            padded = [
                query.continuation + (0,) * (longest - len(query.continuation)) for query in queries
            ]
            after = self._feed_copies(snapshot, padded)
            for index, query in enumerate(queries):
                lines[index].append(after[index, : len(query.continuation)])
            num_forwarded += sum(len(query.continuation) for query in queries)
            num_passes += longest if self._step else 1
        answers = read(torch.cat([part for parts in lines for part in parts]), queries)
        return [charged(answers[0], num_forwarded, num_passes), *answers[1:]]

    def _recomputed(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answers about one prefix from one pass over all of it."""
        prefix = queries[0].prefix
        longest = max(len(query.continuation) for query in queries)
        rows = [
            prefix + query.continuation + (0,) * (longest - len(query.continuation))
            for query in queries
        ]
        logits = self._feed(None, rows, longest + 1)[1]
        lines = [logits[row, : len(query.continuation) + 1] for row, query in enumerate(queries)]
        answers = read(torch.cat(lines), queries)
        num_forwarded = sum(len(prefix) + len(query.continuation) for query in queries)
        return [charged(answers[0], num_forwarded, 1), *answers[1:]]

    def _advance(self, prefix: tuple[int, ...]) -> tuple[Snapshot, int, int]:
        """The state after ``prefix``, and the tokens and passes that it cost."""
        if prefix in self._snapshots:
            self._snapshots.move_to_end(prefix)
            return self._snapshots[prefix], 0, 0
        known = [ids for ids in self._snapshots if prefix[: len(ids)] == ids]
        start = max(known, key=len, default=())
        cache = copy.deepcopy(self._snapshots[start].cache) if start and self._step != 0 else None
        todo = prefix[len(start) :] if cache is not None else prefix
        cache, logits, num_passes = self._feed(cache, [todo], 1)
        snapshot = Snapshot(cache, logits[0])
        self._snapshots[prefix] = snapshot
        while len(self._snapshots) > MAX_SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return snapshot, len(todo), num_passes

    def _feed_copies(self, snapshot: Snapshot, padded: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) of several continuations of one state."""
        cache = copy.deepcopy(snapshot.cache)
        if len(padded) > 1:
            cache.reorder_cache(
                torch.zeros(len(padded), dtype=torch.long, device=self._model.device)
            )
        return self._feed(cache, padded, len(padded[0]))[1]

    def _feed(
        self, cache: Any, rows: Sequence[tuple[int, ...]], num_last: int
    ) -> tuple[Any, torch.Tensor, int]:
        """Run rows of equal length through the model, ``step`` tokens at a time if there is a state.

        Returns the state after it, the logits of the ``num_last`` last tokens of every row, and
        the number of passes.
        """
        for row in rows:
            check_ids(row, self._size)
        ids = torch.tensor([list(row) for row in rows], device=self._model.device)
        width = ids.shape[1] if cache is None or not self._step else self._step
        logits = []
        with torch.inference_mode():
            for piece in ids.split(width, dim=1):
                output = self._model(
                    input_ids=piece,
                    use_cache=self._step != 0,
                    **{self._cache_name: cache},
                    **self._head.last(min(num_last, piece.shape[1])),
                )
                cache = getattr(output, self._cache_name) if self._step != 0 else None
                logits.append(output.logits)
        return cache, torch.cat(logits, dim=1)[:, -num_last:], len(logits)


@final
class SplitPasses:
    """Passes of one kind for texts of up to ``length`` tokens, and of another for longer ones.

    They are for models whose keys change at that length, as with long rotations. A continuation
    across it is asked in two parts, so every token is predicted from a text of its own length.
    """

    def __init__(self, near: Passes, far: Passes, length: int) -> None:
        self._near = near
        self._far = far
        self._length = length

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer queries in order."""
        parts = [self._parts(query) for query in queries]
        lines: list[list[Lines]] = [[] for _ in queries]
        for which, passes in enumerate((self._near, self._far)):
            asked = [(index, pair[which]) for index, pair in enumerate(parts)]
            some = [(index, query) for index, query in asked if query is not None]
            if some:
                found = passes.answer([query for _, query in some], read_lines)
                for (index, _), answer in zip(some, found, strict=True):
                    lines[index].append(answer)
        answers = read(torch.cat([each.logits for some in lines for each in some]), queries)
        return [
            charged(
                answer,
                sum(each.num_forwarded for each in some),
                sum(each.num_passes for each in some),
            )
            for answer, some in zip(answers, lines, strict=True)
        ]

    def _parts(self, query: Query) -> tuple[Query | None, Query | None]:
        """What is asked of either kind; the second part begins with the first longer text."""
        num_near = self._length - len(query.prefix)
        if num_near < 0:
            return None, query
        if len(query.continuation) <= num_near:
            return query, None
        ids = query.prefix + query.continuation
        near = replace(query, continuation=query.continuation[:num_near])
        first = self._length + 1
        return near, replace(query, prefix=ids[:first], continuation=ids[first:])


@final
class LonePasses:
    """Answers every question from a pass of its own over exactly the tokens before it.

    For models in which a token's probability depends on how many tokens follow it in the pass.
    """

    def __init__(self, model: Any, size: int) -> None:
        self._model = quick(model)
        self._head = Head(model)
        self._size = size

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer queries in order; one with L continuation tokens takes L + 1 passes."""
        answers = []
        for query in queries:
            ids = query.prefix + query.continuation
            check_ids(ids, self._size)
            ends = range(len(query.prefix), len(ids) + 1)
            lines = torch.cat([self._after(ids[:end]) for end in ends])
            answers.append(charged(read(lines, [query])[0], sum(ends), len(ends)))
        return answers

    def _after(self, ids: tuple[int, ...]) -> torch.Tensor:
        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self._model.device)
            output = self._model(input_ids=tokens, use_cache=False, **self._head.last(1))
            return output.logits[0, -1:]
