"""Which passes give a model's own numbers: found by trying, at every length that matters.

What may be cached depends on the architecture and its configuration. So passes are tried on a
miniature of the model, past every window and chunk. The model itself is asked about a short text,
or about the whole trial if it is small. Passes count as right if they agree with plain passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.logits import read_scores
from coolfusion.backends.huggingface.miniature import boundaries, marks_around, miniature
from coolfusion.backends.huggingface.packed import PackedPasses
from coolfusion.backends.huggingface.probing import Passes, num_ids, text_limit
from coolfusion.backends.huggingface.snapshots import LonePasses, SnapshotPasses, SplitPasses
from coolfusion.errors import UsageError

PACKED, SNAPSHOTS, BY_TOKEN, RECOMPUTED = "packed", "snapshots", "snapshots by token", "recomputed"
REFUSED = "refused"
ALONE = "recomputed alone"  # each token in a pass of its own
KINDS = (PACKED, SNAPSHOTS, BY_TOKEN, RECOMPUTED)  # the fastest first; alone is always right
SMALL = 1 << 28  # parameters times tokens of a trial up to which the model itself is tried
SINGLE, HALF = 1e-4, 0.1  # nats by which answers may differ
NEGLIGIBLE = -30  # nats below which a probability is not compared

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is run: ``kind``, and for texts longer than ``near`` tokens ``beyond``.

    ``near`` None: at every length. ``beyond`` is "recomputed", or "refused" where an answer would
    depend on earlier questions.
    """

    kind: str
    near: int | None = None
    beyond: str | None = None

    @property
    def strategy(self) -> str:
        """The way in a few words."""
        name = {BY_TOKEN: SNAPSHOTS, ALONE: RECOMPUTED}.get(self.kind, self.kind)
        if self.near is None:
            return name
        return f"{name} up to {self.near:,} tokens, then {self.beyond}"

    @property
    def slow_because(self) -> str | None:
        """Why texts are computed anew for every question, or refused; None if they are not."""
        if self.beyond == REFUSED:
            return f"texts over {self.near:,} tokens change its later answers; it refuses them"
        if self.near is not None:
            return f"texts of more than {self.near:,} tokens are computed anew at every step"
        if self.kind in (RECOMPUTED, ALONE):
            return "it cannot be cached right, so its texts are computed anew at every step"
        return None

    def passes(self, model: Any, size: int, max_rows: int) -> Passes:
        """Passes of this kind through a model with ``size`` ids."""
        made = _passes(self.kind, model, size, max_rows)
        if self.near is None or self.beyond != RECOMPUTED:
            return made
        return SplitPasses(made, LonePasses(model, size), self.near)


@dataclass(slots=True)
class Trial:
    """A model under trial, and ``ids`` of a text. No text that it is asked about is longer.

    ``marks`` are lengths around which passes are tried.
    """

    model: Any
    size: int
    ids: Ids
    marks: tuple[int, ...]
    _whole: torch.Tensor | None = None  # log-probabilities of ids, as far as they are causal
    _expected: dict[Ids, torch.Tensor] = field(default_factory=dict)

    def expected(self, ids: Ids) -> torch.Tensor:
        """(tokens, ids) as a plain pass gives them, in nats; known ones are not computed again."""
        if self._whole is not None and ids == self.ids[: len(ids)] and len(ids) <= len(self._whole):
            return self._whole[: len(ids)]
        if ids not in self._expected:
            self._expected[ids] = self.log_probs(ids)
        return self._expected[ids]

    def log_probs(self, ids: Ids) -> torch.Tensor:
        """(tokens, ids) of a plain pass, in nats."""
        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self.model.device)
            logits = self.model(input_ids=tokens, use_cache=False).logits[0]
            return torch.log_softmax(logits.float(), dim=-1)

    def tolerance(self, log_probs: torch.Tensor) -> float:
        """Nats that are noise: more for narrow types, and where log-probabilities lie far apart."""
        if self.model.dtype != torch.float32:
            return HALF
        return SINGLE * max(1.0, 5 * float(log_probs.clamp(min=-1e3).std()))

    def _same(self, found: torch.Tensor, wanted: torch.Tensor) -> bool:
        """Whether two plain passes agree; rounding differs more between passes of other lengths."""
        counts = wanted > NEGLIGIBLE
        spread = float(wanted.clamp(min=-1e3).std())
        allowed = HALF if self.model.dtype != torch.float32 else 5 * SINGLE * spread
        return bool(((found - wanted).abs()[counts] <= allowed).all())

    def causal_up_to(self) -> int:
        """The longest text tried in which no token depends on how the text goes on.

        Raises ``UsageError`` for a model that looks ahead, or answers differently every time.
        """
        shared, branch = self._branch(self.marks[0])
        so_far = self.expected(shared + branch)[: len(shared)]
        for length in self._lengths():
            longer = self.log_probs(self.ids[:length])
            if not self._same(longer[: len(so_far)], so_far):
                break
            so_far = longer
        if len(so_far) == len(shared):
            if not self._same(self.log_probs(shared + branch)[: len(shared)], so_far):
                raise UsageError(
                    "The model answers the same question differently every time (dropout, random "
                    "attention), so its scores mean nothing. Switch that off or leave it out."
                )
            raise UsageError(
                "The model is not causal: the probability of a token depends on the tokens after "
                "it. It fills gaps and cannot continue a text. If its architecture can do both, "
                "set is_decoder to true in its config.json; otherwise leave this source out."
            )
        self._whole = so_far
        return len(so_far)

    def repeats_beyond(self, length: int) -> bool:
        """Whether an answer about a text longer than ``length`` is the same after a longer one."""
        middle = self.ids[: (length + 1 + len(self.ids)) // 2]
        before = self.log_probs(middle)
        self.log_probs(self.ids)
        after = self.log_probs(middle)
        self.log_probs(self.ids[:2])  # lets rotations that follow the length return
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
        try:
            passes = _passes(kind, self.model, self.size, 2)
            return all(self._are_answered(passes, call) for call in self.calls(most))
        except Exception:
            return False

    def _are_answered(self, passes: Passes, queries: Sequence[Query]) -> bool:
        for query, scores in zip(queries, passes.answer(queries, read_scores), strict=True):
            rows = self.expected(query.prefix + query.continuation)
            allowed = self.tolerance(rows)
            rows = rows[len(query.prefix) - 1 :]
            wanted = [float(rows[i, token]) for i, token in enumerate(query.continuation)]
            wanted += rows.max(dim=-1).values.tolist()
            found = [*scores.log_probs, *scores.pick_log_probs]
            if not all(abs(a - b) <= allowed for a, b in zip(found, wanted, strict=True)):
                return False
        return True


def choose(model: Any, size: int, text: Ids) -> Way:
    """The fastest way to run a model that gives its own numbers.

    ``size`` is its number of ids, and ``text`` begins an ordinary text. Raises ``UsageError`` for
    a model that looks ahead or cannot be run.
    """
    lengths = tuple(boundaries(model.config))
    limit = text_limit(model)
    marks = marks_around(lengths, limit)
    num_parameters = sum(weights.numel() for weights in model.parameters())
    is_small = num_parameters * (marks[-1] + 6) <= SMALL and model.dtype == torch.float32
    tried = marks if is_small else marks[:1]
    trial = Trial(model, size, _text(text, size, tried, limit), tried)
    try:
        if is_small:
            return _way(trial, lengths, KINDS)
        trial.causal_up_to()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"The model cannot be run: {type(error).__name__}: {error}") from error
    kinds = list(KINDS)
    # Without a miniature nothing is known beyond the first window, so nothing is cached there.
    near = lengths[0] if lengths and (limit is None or lengths[0] < limit) else None
    while kinds:
        way = _way_of_miniature(ModelKind.of(model), tuple(kinds))
        way = way or Way(kinds[0], near, RECOMPUTED if near else None)
        if way.kind == ALONE or trial.agrees(way.kind):
            return way
        kinds.remove(way.kind)
    return Way(ALONE)


def _way(trial: Trial, lengths: Ids, kinds: tuple[str, ...]) -> Way:
    """The first of ``kinds`` that agrees with plain passes, as far as it does."""
    causal = trial.causal_up_to()
    if causal < len(trial.ids):
        # Keys depend on how long the text is, as with rotations that change at some length.
        near = max([each for each in lengths if each <= causal], default=trial.marks[0])
        beyond = RECOMPUTED if trial.repeats_beyond(near) else REFUSED
        kind = next((kind for kind in kinds if trial.agrees(kind, near)), ALONE)
        return Way(kind, near, beyond)
    cached = [kind for kind in kinds if kind != RECOMPUTED]
    for kind in cached:
        if trial.agrees(kind):
            return Way(kind)
    for near in sorted(lengths, reverse=True):
        for kind in cached:
            if near > trial.marks[0] and trial.agrees(kind, near):
                return Way(kind, near, RECOMPUTED)
    return Way(RECOMPUTED if RECOMPUTED in kinds and trial.agrees(RECOMPUTED) else ALONE)


def strategy_of(make: Callable[..., Any], config: Any) -> str | None:
    """How a model of a configuration is run, from a miniature that ``make`` builds of it.

    Nothing of the model is read. None if there is no miniature.
    """
    architecture = ModelKind(make, repr(config.to_dict()), None, torch.device("cpu"), config)
    try:
        found = _way_of_miniature(architecture, KINDS)
    except UsageError as error:
        return f"refused: {error}"
    return None if found is None else found.strategy


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What ways to compute depend on: the class of a model and its ``config``, told apart by text."""

    kind: Callable[..., Any]
    text: str
    implementation: str | None
    device: torch.device
    config: Any = field(compare=False)

    @classmethod
    def of(cls, model: Any) -> ModelKind:
        """That of a model."""
        config = model.config
        implementation = getattr(config, "_attn_implementation", None)
        return cls(type(model), repr(config.to_dict()), implementation, model.device, config)


@lru_cache(maxsize=64)
def _way_of_miniature(architecture: ModelKind, kinds: tuple[str, ...]) -> Way | None:
    """The fastest way of ``kinds`` on a miniature, with lengths of the model; None without one."""
    config = architecture.config
    small = miniature(architecture.kind, config, architecture.device)
    if small is None:
        return None
    lengths, real = tuple(boundaries(small.config)), tuple(boundaries(config))
    limit = text_limit(small)
    marks, size = marks_around(lengths, limit), num_ids(small)
    way = _way(Trial(small, size, _text((), size, marks, limit), marks), lengths, kinds)
    names = dict(zip(lengths, real, strict=True))
    return replace(way, near=names.get(way.near, way.near) if way.near else None)


def _text(text: Ids, size: int, marks: tuple[int, ...], limit: int | None) -> Ids:
    """Ids past all marks that begin with ``text``; others follow without an order."""
    length = min(marks[-1] + 6, limit or 1 << 30)
    more = ((7 * i * i + 3 * i + 1) % size for i in range(max(0, length - len(text))))
    return (*text[:length], *more)


def _passes(kind: str, model: Any, size: int, max_rows: int) -> Passes:
    if kind == PACKED:
        return PackedPasses(model, size, max_rows)
    if kind == ALONE:
        return LonePasses(model, size)
    return SnapshotPasses(model, size, {SNAPSHOTS: None, BY_TOKEN: 1, RECOMPUTED: 0}[kind])
