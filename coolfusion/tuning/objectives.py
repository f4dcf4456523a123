"""What a setting is worth: a value per row, from answers that are kept or likelihoods that are.

Two ways to have it stand behind one seam. ``Answers`` decodes every row and lets the metric
judge; ``references.References`` decodes nothing and asks how likely the reference is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coolfusion.backends.source import Source
from coolfusion.config.options import FusionConfig
from coolfusion.config.plan import plan_recipe
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import DEFAULT_SPECULATION, SegmentDecoder
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.speculation import Speculation
from coolfusion.evaluation.metrics import Metric, MetricError
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.report import judge
from coolfusion.evaluation.systems import PromptOf, System, decoding
from coolfusion.evaluation.tasks import Row
from coolfusion.tuning.space import label
from coolfusion.types import Floats

RowsDone = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured: the fusion by ``config``, or the source called ``name`` alone (None)."""

    name: str
    config: FusionConfig | None = None

    @property
    def system(self) -> str:
        """The name under which its outcomes are kept."""
        return self.name if self.config is None else f"fusion({label(self.config)})"


@dataclass(frozen=True, slots=True)
class Measured:
    """Values (rows,), NaN where there is none; tokens computed (rows,); why there is none."""

    values: Floats
    num_forwarded: Floats
    failures: tuple[str, ...]

    def over(self, kept: NDArray[np.bool_]) -> tuple[float, float]:
        """Mean value and mean tokens over the ``kept`` rows (rows,); NaN if one has no value."""
        if not kept.any():
            return math.nan, math.nan
        return float(self.values[kept].mean()), float(self.num_forwarded[kept].mean())


class Objective(Protocol):
    """What tuning needs of a metric."""

    @property
    def higher_is_better(self) -> bool:
        """Which way the values go."""

    def measure(self, contender: Contender, rows: Sequence[Row], progress: RowsDone) -> Measured:
        """A contender's values of ``rows``. What the record holds is not computed again.

        ``progress`` is called with (rows finished, of how many).
        """


@dataclass(frozen=True, slots=True)
class Answers:
    """Judges what contenders answer. All of them share the loaded ``sources``."""

    sources: tuple[Source, ...]
    metrics: Mapping[str | int, Metric]
    request: Request
    prompt_of: PromptOf
    record: Record
    batch_size: int = 32
    speculation: Speculation | None = DEFAULT_SPECULATION

    @property
    def higher_is_better(self) -> bool:
        """As the metric of the first row says."""
        return next(iter(self.metrics.values())).higher_is_better

    def measure(self, contender: Contender, rows: Sequence[Row], progress: RowsDone) -> Measured:
        """Decode the rows that have no answer yet, keep each at once, and judge all."""
        system = self._system(contender)
        answer_rows(system, rows, self.record, progress)
        return judged(system.name, rows, self.metrics, self.record.outcomes)

    def _system(self, contender: Contender) -> System:
        if contender.config is None:
            own = [source for source in self.sources if source.name == contender.name]
            decoder = SegmentDecoder(own)
        else:
            recipe = recipe_of(contender.config, self.sources)
            decoder = SegmentDecoder(self.sources, recipe, speculation=self.speculation)
        return decoding(contender.system, decoder, self.request, self.prompt_of, self.batch_size)


def recipe_of(config: FusionConfig, sources: Sequence[Source]) -> Recipe:
    """The recipe that a setting describes for ``sources``; ``UsageError`` as for any recipe."""
    names = [source.name for source in sources]
    return plan_recipe(names, {**config.said(), "names": names})[1]


def answer_rows(system: System, rows: Sequence[Row], record: Record, progress: RowsDone) -> None:
    """Let a system answer the rows that the record has no good outcome for."""
    todo = [row for row in rows if record.finished(system.name, row, system.digest(row)) is None]
    progress(len(rows) - len(todo), len(rows))
    for number, outcome in enumerate(system.answer(todo, record.outcomes), 1):
        record.add(outcome)
        progress(len(rows) - len(todo) + number, len(rows))


def judged(
    system: str,
    rows: Sequence[Row],
    metrics: Mapping[str | int, Metric],
    outcomes: Mapping[tuple[str, str | int], Outcome],
) -> Measured:
    """The values of a system's outcomes. A row that cannot be judged has none and says why."""
    values, spent, failures = [], [], []
    for row in rows:
        outcome = outcomes[system, row.id]
        value = None
        try:
            value = judge(metrics[row.id], row, outcome)
            if value is None:
                failures.append(f"{system} has no answer to row {row.id!r}: {outcome.error}")
        except MetricError as error:
            failures.append(f"{system}: {error}")
        values.append(math.nan if value is None else value)
        spent.append(float(outcome.total_forwarded))
    return Measured(
        np.array(values, dtype=np.float64), np.array(spent, dtype=np.float64), tuple(failures)
    )
