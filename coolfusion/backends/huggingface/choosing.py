"""Which passes give a model's own numbers: found by trying, at every length that matters.

What may be cached depends on the architecture and its configuration. So passes are tried on a
miniature of the model, past every window and chunk. The model itself is asked about a short text,
or about the whole trial if it is small. Passes count as right if they agree with plain passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.logits import read_scores
from coolfusion.backends.huggingface.miniature import boundaries, miniature
from coolfusion.backends.huggingface.packed import PackedPasses
from coolfusion.backends.huggingface.probing import Passes, length_limit
from coolfusion.backends.huggingface.snapshots import SnapshotPasses, SplitPasses
from coolfusion.errors import UsageError

PACKED, SNAPSHOTS, BY_TOKEN, RECOMPUTED = "packed", "snapshots", "snapshots by token", "recomputed"
CACHED = (PACKED, SNAPSHOTS, BY_TOKEN)  # the fastest first
SHORT = 14  # tokens that any model is tried on
SMALL = 1 << 28  # parameters times tokens of a trial up to which the model itself is tried
SINGLE, HALF = 1e-4, 0.1  # nats by which answers may differ

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is run: ``kind``, and for texts longer than ``near`` tokens ``beyond``.

    ``near`` None means at every length. ``beyond`` is "recomputed", or "refused" where the
    probability of a token would depend on how many tokens follow it.
    """

    kind: str
    near: int | None = None
    beyond: str | None = None

    @property
    def strategy(self) -> str:
        """The way in a few words."""
        name = SNAPSHOTS if self.kind == BY_TOKEN else self.kind
        if self.near is None:
            return name
        return f"{name} up to {self.near:,} tokens, then {self.beyond}"

    @property
    def slow_because(self) -> str | None:
        """Why texts are computed anew for every question, or refused; None if they are not."""
        if self.beyond == "refused":
            return (
                f"what it says of a text changes with the length of the text beyond {self.near:,} "
                "tokens, so longer ones are refused"
            )
        if self.near is not None:
            return (
                f"its cached keys hold up to {self.near:,} tokens, so longer texts are computed "
                "anew at every step"
            )
        if self.kind == RECOMPUTED:
            return "it cannot be cached right, so its texts are computed anew at every step"
        return None

    def passes(self, model: Any, size: int, max_rows: int) -> Passes:
        """Passes of this kind through a model with ``size`` ids."""
        made = _passes(self.kind, model, size, max_rows)
        if self.near is None or self.beyond != RECOMPUTED:
            return made
        return SplitPasses(made, _passes(RECOMPUTED, model, size, max_rows), self.near)


@dataclass(frozen=True, slots=True)
class Trial:
    """A model under trial: ``ids`` of a text, its other lengths, and what differences are noise.

    ``marks`` are lengths around which passes are tried. No text is longer than ``ids``.
    """

    model: Any
    size: int
    ids: Ids
    marks: tuple[int, ...]

    def log_probs(self, ids: Ids) -> torch.Tensor:
        """(tokens, ids) of a plain pass, in nats."""
        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self.model.device)
            logits = self.model(input_ids=tokens, use_cache=False).logits[0]
            return torch.log_softmax(logits.float(), dim=-1)

    def tolerance(self, log_probs: torch.Tensor) -> float:
        """Nats that are noise: more for narrow types, and for large logits."""
        if self.model.dtype != torch.float32:
            return HALF
        return SINGLE * max(1.0, float(log_probs.clamp(min=-1e4).abs().max()) / 20)

    def causal_up_to(self) -> int:
        """The longest text tried in which no token depends on how the text goes on.

        Raises ``UsageError`` for a model that looks ahead, or answers differently every time.
        """
        first = self.marks[0]
        wanted = self.log_probs(self.ids[:first])
        allowed = self.tolerance(wanted)
        if not _near(self.log_probs(self.ids[:first]), wanted, allowed):
            raise UsageError(
                "The model answers the same question differently every time (dropout, or random "
                "attention), so its scores mean nothing. Switch that off in its configuration, or "
                "leave this source out."
            )
        longest = first
        for length in dict.fromkeys((first + 2, *self.marks[1:], len(self.ids))):
            if not _near(self.log_probs(self.ids[:length])[:first], wanted, allowed):
                break
            longest = length
        if longest == first:
            raise UsageError(
                "The model is not causal: the probability of a token depends on the tokens after "
                "it. It fills gaps and cannot continue a text. If its architecture can do both, "
                "set is_decoder to true in its config.json; otherwise leave this source out."
            )
        return longest

    def is_stable_beyond(self, length: int) -> bool:
        """Whether texts longer than ``length`` agree with each other, if not with shorter ones."""
        lengths = [each for each in (*self.marks, len(self.ids)) if each > length]
        found = [self.log_probs(self.ids[:each]) for each in dict.fromkeys(lengths)]
        return all(_near(b[: len(a)], a, self.tolerance(a)) for a, b in pairwise(found))

    def calls(self, most: int | None = None) -> list[list[Query]]:
        """Queries as decoding asks them: a text that grows, with branches and beside another one.

        No query has more than ``most`` tokens.
        """
        ids, other = self.ids, self.ids[1:][::-1]
        calls = [[Query(ids[:5], ids[5:8]), Query(ids[:5], ids[9:11])], [Query(ids[:7], ids[9:12])]]
        for mark in self.marks:
            calls += [
                [
                    Query(ids[: mark - 2], ids[mark - 2 : mark + 2], sequence_id=1),
                    Query(ids[: mark - 2], other[mark : mark + 1] + other[:2], sequence_id=1),
                ],
                [
                    Query(ids[: mark + 1], ids[mark + 1 : mark + 3], sequence_id=1),
                    Query(other[: mark // 2 + 2], other[-3:-1], sequence_id=2),
                ],
            ]
        calls += [[Query(ids[:6], other[:2], sequence_id=1)], [Query(ids[:-1], ids[-1:])]]
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
            rows = self.log_probs(query.prefix + query.continuation)
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
    limit = length_limit(model.config.get_text_config(decoder=True))
    short = Trial(model, size, _text(text, size, min(SHORT, limit or SHORT)), (8,))
    try:
        with torch.inference_mode():
            short.causal_up_to()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"The model cannot be run: {type(error).__name__}: {error}") from error
    marks = _marks(lengths, limit)
    num_parameters = sum(weights.numel() for weights in model.parameters())
    is_small = num_parameters * (marks[-1] + 6) <= SMALL and model.dtype == torch.float32
    if is_small:
        trial = Trial(model, size, _text(text, size, _end(marks, limit)), marks)
        return _way(trial, lengths)
    implementation = getattr(model.config, "_attn_implementation", None)
    found = _way_of_miniature(
        type(model), type(model.config), model.config.to_json_string(), implementation, model.device
    )
    if found is None:
        # Nothing is known beyond the first window, so nothing is cached there.
        near = lengths[0] if lengths and (limit is None or lengths[0] < limit) else None
        found = tuple(Way(kind, near, near and RECOMPUTED) for kind in CACHED)
    return next((way for way in found if short.agrees(way.kind)), Way(RECOMPUTED))


def _way(trial: Trial, lengths: tuple[int, ...]) -> Way:
    return next(iter(_ways(trial, lengths)), Way(RECOMPUTED))


def _ways(trial: Trial, lengths: tuple[int, ...]) -> list[Way]:
    """All cached ways that agree with plain passes, the fastest first."""
    causal = trial.causal_up_to()
    if causal < len(trial.ids):
        # Keys depend on how long the text is, as with rotations that change at some length.
        near = max([each for each in lengths if each <= causal], default=trial.marks[0])
        beyond = RECOMPUTED if trial.is_stable_beyond(near) else "refused"
        kinds = [kind for kind in CACHED if trial.agrees(kind, near)]
        return [Way(kind, near, beyond) for kind in (*kinds, RECOMPUTED)]
    found = [Way(kind) for kind in CACHED if trial.agrees(kind)]
    if found:
        return found
    return [
        Way(kind, near, RECOMPUTED)
        for near in sorted(lengths, reverse=True)
        for kind in CACHED
        if near > trial.marks[0] and trial.agrees(kind, near)
    ]


@lru_cache(maxsize=64)
def _way_of_miniature(
    kind: type[Any], settings: type[Any], text: str, implementation: str | None, device: Any
) -> tuple[Way, ...] | None:
    """The ways that agree on a miniature, with lengths of the model; None if there is none."""
    import json

    config = settings.from_dict(json.loads(text))
    config._attn_implementation = implementation
    small = miniature(kind, config, device)
    if small is None:
        return None
    lengths, real = tuple(boundaries(small.config)), tuple(boundaries(config))
    limit = length_limit(small.config.get_text_config(decoder=True))
    marks = _marks(lengths, limit)
    size = small.get_input_embeddings().weight.shape[0]
    trial = Trial(small, size, _text((), size, _end(marks, limit)), marks)
    names = dict(zip(lengths, real, strict=True))
    return tuple(
        Way(way.kind, names.get(way.near, way.near) if way.near else None, way.beyond)
        for way in _ways(trial, lengths)
    )


def _marks(lengths: tuple[int, ...], limit: int | None) -> tuple[int, ...]:
    """Lengths around which passes are tried: past every boundary, and past it a second time."""
    most = (limit or 1 << 30) - 6
    wanted = {8, 12, *(b + 1 for b in lengths), *(2 * b + 2 for b in lengths)}
    return tuple(sorted(each for each in wanted if 8 <= each <= most)) or (max(4, most),)


def _end(marks: tuple[int, ...], limit: int | None) -> int:
    return min(marks[-1] + 6, limit or 1 << 30)


def _text(text: Ids, size: int, length: int) -> Ids:
    """``length`` ids that begin with ``text``; others follow without an order."""
    more = ((7 * i * i + 3 * i + 1) % size for i in range(max(0, length - len(text))))
    return (*text[:length], *more)


def _passes(kind: str, model: Any, size: int, max_rows: int) -> Passes:
    if kind == PACKED:
        return PackedPasses(model, size, max_rows)
    return SnapshotPasses(model, size, {SNAPSHOTS: None, BY_TOKEN: 1, RECOMPUTED: 0}[kind])


def _near(found: torch.Tensor, wanted: torch.Tensor, allowed: float) -> bool:
    """Whether distributions agree where they are not negligible."""
    counts = wanted > -30
    return bool(((found - wanted).abs()[counts] <= allowed).all())
