"""Which passes give a model's own numbers: found by trying, at every length that matters.

What may be cached depends on the architecture and its configuration. So passes are tried on a
miniature of the model, past every window and chunk, in single precision. The model itself is asked
about a short text, or about the whole trial if it is small. Passes count as right if they agree
with plain passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch

from coolfusion.backends.huggingface.miniature import boundaries, marks_around, miniature
from coolfusion.backends.huggingface.probing import Passes, num_ids, text_limit
from coolfusion.backends.huggingface.snapshots import LonePasses, SplitPasses
from coolfusion.backends.huggingface.trials import (
    ALONE,
    BY_TOKEN,
    KINDS,
    RECOMPUTED,
    RECOMPUTED_BECAUSE,
    SNAPSHOTS,
    Ids,
    Sample,
    Trial,
    passes_of,
)
from coolfusion.errors import NonFiniteError, UsageError

REFUSED = "refused"
SMALL = 1 << 28  # parameters times tokens of a trial up to which the model itself is tried


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
            return RECOMPUTED_BECAUSE
        return None

    def passes(self, model: Any, size: int, max_rows: int) -> Passes:
        """Passes of this kind through a model with ``size`` ids."""
        made = passes_of(self.kind, model, size, max_rows)
        if self.near is None or self.beyond != RECOMPUTED:
            return made
        return SplitPasses(made, LonePasses(model, size), self.near)


def choose(model: Any, size: int, text: Ids) -> Way:
    """The fastest way to run a model that gives its own numbers.

    ``size`` is its number of ids, and ``text`` begins an ordinary text. Raises ``UsageError`` for
    a model that looks ahead or cannot be run, and ``NonFiniteError`` for one that answers NaN or
    infinity.
    """
    lengths = tuple(boundaries(model.config))
    limit = text_limit(model)
    marks = marks_around(lengths, limit)
    num_parameters = sum(weights.numel() for weights in model.parameters())
    is_small = num_parameters * (marks[-1] + 6) <= SMALL and model.dtype == torch.float32
    try:
        if is_small:
            return _way(Trial.past(marks, model, size, text, limit), lengths, KINDS)
        sample = Sample.of(model, size, text, limit)
    except (UsageError, NonFiniteError):
        raise
    except Exception as error:
        raise UsageError(f"The model cannot be run: {type(error).__name__}: {error}") from error
    kinds = list(KINDS)
    # Without a miniature nothing is known beyond the first window, so nothing is cached there.
    near = lengths[0] if lengths and (limit is None or lengths[0] < limit) else None
    while kinds:
        way = _way_of_miniature(ModelKind.of(model), tuple(kinds))
        way = way or Way(kinds[0], near, RECOMPUTED if near else None)
        if way.kind == ALONE or sample.agrees(way.kind):
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

    Slow ways come with their reason. Nothing of the model is read. None: there is no miniature.
    """
    architecture = ModelKind(make, repr(config.to_dict()), None, torch.device("cpu"), config)
    try:
        found = _way_of_miniature(architecture, KINDS)
    except UsageError as error:
        return f"refused: {error}"
    if found is None:
        return None
    because = found.slow_because
    return found.strategy if because is None else f"{found.strategy}: {because}"


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
    marks = marks_around(lengths, limit)
    try:
        way = _way(Trial.past(marks, small, num_ids(small), (), limit), lengths, kinds)
    except NonFiniteError:
        return None  # random weights overflow, which says nothing of the model's
    names = dict(zip(lengths, real, strict=True))
    return replace(way, near=names.get(way.near, way.near) if way.near else None)
