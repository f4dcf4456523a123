"""Trials of a way to compute: its numbers beside those of plain passes, which keep nothing.

A ``Trial`` goes past every length that matters. It is for small models in single precision. A
``Sample`` is three passes through a large one. It shows what a miniature cannot: the weights,
their type, the device and its kernels.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.packed import PackedPasses
from coolfusion.backends.huggingface.probing import Passes, agrees, difference, rounding
from coolfusion.backends.huggingface.snapshots import LonePasses, SnapshotPasses
from coolfusion.errors import NonFiniteError, UsageError

PACKED, SNAPSHOTS, BY_TOKEN, RECOMPUTED = "packed", "snapshots", "snapshots by token", "recomputed"
ALONE = "recomputed alone"  # each token in a pass of its own
KINDS = (PACKED, SNAPSHOTS, BY_TOKEN, RECOMPUTED)  # the fastest first; alone is always right
RECOMPUTED_BECAUSE = "it cannot be cached right, so its texts are computed anew at every step"
SAMPLE = 9  # tokens of each text of a sample
BRANCH = 3  # of them after the branch

Ids: TypeAlias = tuple[int, ...]


def passes_of(kind: str, model: Any, size: int, max_rows: int) -> Passes:
    """Passes of a kind through a model with ``size`` ids."""
    if kind == PACKED:
        return PackedPasses(model, size, max_rows)
    if kind == ALONE:
        return LonePasses(model, size)
    return SnapshotPasses(model, size, {SNAPSHOTS: None, BY_TOKEN: 1, RECOMPUTED: 0}[kind])


@dataclass(slots=True)
class Trial:
    """A model under trial, and ``ids`` of a text. No text that it is asked about is longer.

    ``marks`` are lengths around which passes are tried. Up to ``tolerance`` a difference is
    rounding.
    """

    model: Any
    size: int
    ids: Ids
    marks: tuple[int, ...]
    tolerance: float
    _whole: torch.Tensor | None = None  # logits of ids, as far as they are causal
    _expected: dict[Ids, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def past(
        cls, marks: tuple[int, ...], model: Any, size: int, text: Ids, limit: int | None
    ) -> Trial:
        """A trial of a text past all ``marks``, within ``limit`` tokens, that begins with ``text``."""
        ids = _lengthened(text, size, min(marks[-1] + 6, limit or 1 << 30))
        return cls(model, size, ids, marks, rounding(model))

    def expected(self, query: Query) -> torch.Tensor:
        """(tokens, ids) as a plain pass gives them after a query's prefix and continuation."""
        return self._logits(query.prefix + query.continuation)[len(query.prefix) - 1 :]

    def _logits(self, ids: Ids) -> torch.Tensor:
        """(tokens, ids) of a plain pass; known ones are not computed again."""
        if self._whole is not None and ids == self.ids[: len(ids)] and len(ids) <= len(self._whole):
            return self._whole[: len(ids)]
        if ids not in self._expected:
            self._expected[ids] = self._plain(ids)
        return self._expected[ids]

    def _plain(self, ids: Ids) -> torch.Tensor:
        return _plain(self.model, [ids])[0]

    def _same(self, found: torch.Tensor, wanted: torch.Tensor) -> bool:
        return difference(found, wanted) <= self.tolerance

    def causal_up_to(self) -> int:
        """The longest text tried in which no token depends on how the text goes on.

        Raises ``UsageError`` for a model that looks ahead, or answers differently every time.
        """
        shared, branch = self._branch(self.marks[0])
        so_far = self._logits(shared + branch)[: len(shared)]
        for length in self._lengths():
            longer = self._plain(self.ids[:length])
            if not self._same(longer[: len(so_far)], so_far):
                break
            so_far = longer
        if len(so_far) == len(shared):
            again = self._plain(shared + branch)[: len(shared)]
            raise _not_causal(is_steady=self._same(again, so_far))
        self._whole = so_far
        return len(so_far)

    def repeats_beyond(self, length: int) -> bool:
        """Whether an answer about a text longer than ``length`` is the same after a longer one."""
        middle = self.ids[: (length + 1 + len(self.ids)) // 2]
        before = self._plain(middle)
        self._plain(self.ids)
        after = self._plain(middle)
        self._plain(self.ids[:2])  # lets rotations that follow the length return
        return self._same(after, before)

    def _branch(self, mark: int) -> tuple[Ids, Ids]:
        """The text up to shortly before a mark, and ids that it does not go on with."""
        other = self.ids[1:][::-1]
        return self.ids[: mark - 2], other[mark : mark + 1] + other[:2]

    def _lengths(self) -> list[int]:
        """Lengths in ascending order: around every mark but the first, and that of the text."""
        some = {mark + i for mark in self.marks[1:] for i in (-1, 0, 2)} | {len(self.ids)}
        return sorted(each for each in some if self.marks[0] < each <= len(self.ids))

    def calls(self, most: int | None = None) -> list[list[Query]]:
        """Queries as decoding asks them: a text that grows, with branches and beside another one.

        No query has more than ``most`` tokens.
        """
        ids, other = self.ids, self.ids[1:][::-1]
        calls = []
        for mark in self.marks:
            shared, branch = self._branch(mark)
            calls += [
                [
                    Query(shared, ids[mark - 2 : mark + 2], sequence_id=1),
                    Query(shared, branch, sequence_id=1),
                ],
                [
                    Query(ids[: mark + 1], ids[mark + 1 : mark + 3], sequence_id=1),
                    Query(other[: mark // 2 + 2], other[-3:-1], sequence_id=2),
                ],
            ]
        # Rewound to the last branch, whose numbers are known, beside a text without a sequence.
        rewound = Query(shared + branch[:1], branch[1:], sequence_id=1)
        calls.append([rewound, Query(ids[:-1], ids[-1:])])
        longest = len(ids) if most is None else most
        kept = ([q for q in call if len(q.prefix + q.continuation) <= longest] for call in calls)
        return [call for call in kept if call]

    def agrees(self, kind: str, most: int | None = None) -> bool:
        """Whether passes of a kind give the numbers of plain passes, up to ``most`` tokens."""
        make = partial(passes_of, kind, self.model, self.size, 2)
        return agrees(make, self.calls(most), self.expected, self.tolerance)


@dataclass(frozen=True, slots=True)
class Sample:
    """An ordinary text and a branch of it, with the logits of one plain pass over both.

    ``num_shared`` tokens come before the branch. ``logits`` (2, tokens, ids) begin after the last
    of them: the texts have the same there unless the model looks ahead. Up to ``tolerance`` a
    difference is rounding.
    """

    model: Any
    size: int
    text: Ids
    branch: Ids
    num_shared: int
    logits: torch.Tensor
    tolerance: float

    @classmethod
    def of(cls, model: Any, size: int, text: Ids, limit: int | None) -> Sample:
        """A sample of the beginning of ``text``, within ``limit`` tokens.

        Raises ``UsageError`` for a model that looks ahead, or answers differently every time, and
        ``NonFiniteError`` for one that answers NaN or infinity.
        """
        length = max(BRANCH + 1, min(SAMPLE, limit or SAMPLE))
        ids, start = _lengthened(text, size, length), length - BRANCH
        # A word is put in between. So the branch stays ordinary, and every token of it is moved.
        other = next(
            (each for each in text[length:] if each != ids[start]), (ids[start] + 1) % size
        )
        branch = (*ids[:start], other, *ids[start:-1])
        logits = _plain(model, [ids, branch], start - 1)
        tolerance = rounding(model)
        if difference(logits[1, :1], logits[0, :1]) > tolerance:
            again = _plain(model, [ids, branch], start - 1)
            raise _not_causal(is_steady=difference(again, logits) <= tolerance)
        return cls(model, size, ids, branch, start, logits, tolerance)

    def expected(self, query: Query) -> torch.Tensor:
        """(tokens, ids) of the plain pass after a query's prefix and continuation."""
        logits = self.logits[0 if query.prefix + query.continuation == self.text else 1]
        return logits[len(query.prefix) - self.num_shared :]

    def calls(self) -> list[list[Query]]:
        """Both texts as a tree, then the branch goes on, and the text starts a row of its own."""
        shared = self.text[: self.num_shared]
        return [
            [
                Query(shared, ids[self.num_shared :], sequence_id=1)
                for ids in (self.text, self.branch)
            ],
            [
                Query(ids[:-2], ids[-2:], sequence_id=number)
                for number, ids in enumerate((self.branch, self.text), start=1)
            ],
        ]

    def agrees(self, kind: str) -> bool:
        """Whether passes of a kind give the numbers of the plain pass."""
        make = partial(passes_of, kind, self.model, self.size, 2)
        return agrees(make, self.calls(), self.expected, self.tolerance)


def _plain(model: Any, rows: Sequence[Ids], first: int = 0) -> torch.Tensor:
    """Logits (rows, tokens, ids) from column ``first`` on of a pass that keeps nothing.

    Raises ``NonFiniteError`` for NaN and for infinity, except for ids that are ruled out.
    """
    number = len(rows[0]) - first
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    with torch.inference_mode():
        logits: torch.Tensor = model(
            input_ids=torch.tensor(rows, device=model.device),
            use_cache=False,
            **({"logits_to_keep": number} if keeps else {}),
        ).logits[:, -number:]
    if not bool(logits.amax(dim=-1).isfinite().all()):
        raise NonFiniteError(
            f"The model answers NaN or infinity in {str(model.dtype).removeprefix('torch.')}, so "
            "it says nothing. Its dtype may be too narrow (float16 overflows where bfloat16 does "
            "not). Load it with another dtype, such as float32."
        )
    return logits.float()


def _not_causal(*, is_steady: bool) -> UsageError:
    """What is wrong with a model whose answers about one beginning differ."""
    if is_steady:
        return UsageError(
            "The model is not causal: the probability of a token depends on the tokens after "
            "it. It fills gaps and cannot continue a text. If its architecture can do both, "
            "set is_decoder to true in its config.json; otherwise leave this source out."
        )
    return UsageError(
        "The model answers the same question differently every time (dropout, random "
        "attention), so its scores mean nothing. Switch that off or leave it out."
    )


def _lengthened(text: Ids, size: int, length: int) -> Ids:
    """``length`` ids that begin with ``text``; others follow without an order."""
    more = ((7 * i * i + 3 * i + 1) % size for i in range(max(0, length - len(text))))
    return (*text[:length], *more)
