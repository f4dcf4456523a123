"""What tuning found: the best trials on both splits, beside the untuned fusion and each source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coolfusion.config.options import FusionConfig
from coolfusion.errors import UsageError
from coolfusion.evaluation.statistics import bootstrap_interval, paired_p_value
from coolfusion.evaluation.tasks import Row
from coolfusion.tuning.objectives import Measured

UNTUNED = "untuned"


@dataclass(frozen=True, slots=True)
class SplitResult:
    """One contender on one split, over the rows that all shown contenders have a value for.

    - ``values``: (rows of the split,); None for a row without a value.
    - ``interval``: 95 % bootstrap interval of the ``mean``.
    - ``p_value``: paired and two-sided, against the source that is best on the tuning split; None
      for that source.
    - ``num_forwarded``: mean number of tokens computed for a row.
    """

    values: tuple[float | None, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float | None
    num_forwarded: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender of the report: a source alone (no ``config``), the untuned fusion, or a trial.

    ``trial`` is the number of a trial from 1, else None. ``held_out`` is None if no rows were held
    out.
    """

    name: str
    config: FusionConfig | None
    trial: int | None
    tuning: SplitResult
    held_out: SplitResult | None


@dataclass(frozen=True, slots=True)
class TuningTrial:
    """A setting that was tried: its number from 1, and its mean value and tokens per tuning row.

    ``score`` is None if a row has no value; such a setting cannot be chosen.
    """

    number: int
    config: FusionConfig
    score: float | None
    num_forwarded: float


@dataclass(frozen=True, slots=True)
class TuningReport:
    """The search and its result.

    - ``entries``: the sources, the untuned fusion, and the best trials.
    - ``chosen``: the name of the best of the untuned fusion and all trials on the tuning split.
    - ``tuning_rows``, ``held_out_rows``: ids.
    - ``num_used``: how many of each have a value for every entry.
    - ``failures``: why the others have none.
    """

    task: str
    metric: str
    higher_is_better: bool
    search: str
    seed: int
    tuning_rows: tuple[str | int, ...]
    held_out_rows: tuple[str | int, ...]
    num_used: tuple[int, int]
    best_source: str
    chosen: str
    entries: tuple[Entry, ...]
    trials: tuple[TuningTrial, ...]
    failures: tuple[str, ...]

    def entry(self, name: str) -> Entry:
        """The entry called ``name``. Raises ``UsageError`` if there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise UsageError(
            f'There is no entry "{name}" in this report. It has {[e.name for e in self.entries]}.'
        )

    @property
    def best(self) -> FusionConfig:
        """The chosen setting."""
        return self.entry(self.chosen).config or FusionConfig()


def split_results(
    rows: Sequence[Row], measured: Mapping[str, Measured], rival: str, seed: int
) -> tuple[dict[str, SplitResult], int]:
    """Results by contender, and the number of rows that all of them have a value for."""
    table = np.array([each.values for each in measured.values()])
    usable = np.isfinite(table.sum(axis=0)) if rows else np.zeros(0, dtype=np.bool_)
    against = measured[rival].values[usable]
    results = {}
    for name, each in measured.items():
        mean, num_forwarded = each.over(usable)
        values = each.values[usable]
        results[name] = SplitResult(
            tuple(None if math.isnan(value) else float(value) for value in each.values),
            mean,
            bootstrap_interval(values, seed=seed) if values.size else (math.nan, math.nan),
            None
            if name == rival or not values.size
            else paired_p_value(values, against, seed=seed),
            num_forwarded,
        )
    return results, int(usable.sum())
