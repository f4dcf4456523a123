"""Objectives: the value of a setting for every row, from recorded answers or likelihoods.

There are two. ``Answers`` decodes every row and applies the metric. ``references.References``
decodes nothing and computes the log-likelihood of the reference.
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
from coolfusion.evaluation.metrics import Metric
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.report import judged
from coolfusion.evaluation.run import answer_rows
from coolfusion.evaluation.systems import PromptOf, System, decoding
from coolfusion.evaluation.tasks import Row
from coolfusion.tuning.space import label
from coolfusion.types import Floats

RowsDone = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender: the fusion with ``config``, or (None) the source called ``name`` alone."""

    name: str
    config: FusionConfig | None = None

    @property
    def system(self) -> str:
        """The name of its outcomes in the record."""
        return self.name if self.config is None else f"fusion({label(self.config)})"


@dataclass(frozen=True, slots=True)
class Measured:
    """Values (rows,), NaN for none; tokens (rows,); and the reasons of missing values.

    ``num_forwarded`` are the tokens that were drafted and scored, which follow from the answers
    alone. How many of them a model had to compute depends on what was cached, and so on
    interruptions. No tie may go by that.
    """

    values: Floats
    num_forwarded: Floats
    failures: tuple[str, ...]

    def over(self, kept: NDArray[np.bool_]) -> tuple[float, float]:
        """Mean value and mean tokens over the ``kept`` rows (rows,); NaN if one has no value."""
        if not kept.any():
            return math.nan, math.nan
        return float(self.values[kept].mean()), float(self.num_forwarded[kept].mean())


class Objective(Protocol):
    """The interface of a metric to tuning."""

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values are better."""

    def measure(self, contender: Contender, rows: Sequence[Row], progress: RowsDone) -> Measured:
        """A contender's values for ``rows``. Recorded outcomes are not computed again.

        ``progress`` is called with (finished rows, all rows).
        """


@dataclass(frozen=True, slots=True)
class Answers:
    """Applies metrics to decoded answers. All contenders share the loaded ``sources``."""

    sources: tuple[Source, ...]
    metrics: Mapping[str | int, Metric]
    request: Request
    prompt_of: PromptOf
    record: Record
    batch_size: int = 32
    speculation: Speculation | None = DEFAULT_SPECULATION

    @property
    def higher_is_better(self) -> bool:
        """As for the metric of the first row."""
        return next(iter(self.metrics.values())).higher_is_better

    def measure(self, contender: Contender, rows: Sequence[Row], progress: RowsDone) -> Measured:
        """Decode the rows without an answer, record each at once, and apply the metrics."""
        system = self._system(contender)
        answer_rows(system, rows, self.record, progress)
        return measured(system.name, rows, self.metrics, self.record.outcomes)

    def _system(self, contender: Contender) -> System:
        if contender.config is None:
            own = [source for source in self.sources if source.name == contender.name]
            decoder = SegmentDecoder(own)
        else:
            recipe = recipe_of(contender.config, self.sources)
            decoder = SegmentDecoder(self.sources, recipe, speculation=self.speculation)
        return decoding(
            contender.system,
            decoder,
            lambda row: row.request(self.request),
            self.prompt_of,
            self.batch_size,
        )


def recipe_of(config: FusionConfig, sources: Sequence[Source]) -> Recipe:
    """The recipe of a setting for ``sources``. Raises ``UsageError`` for wrong options."""
    names = [source.name for source in sources]
    return plan_recipe(names, {**config.said(), "names": names})[1]


def measured(
    system: str,
    rows: Sequence[Row],
    metrics: Mapping[str | int, Metric],
    outcomes: Mapping[tuple[str, str | int], Outcome],
) -> Measured:
    """The values of a system's outcomes, and the tokens they took.

    Outcomes of an earlier version say only how many tokens were computed. Those count then.
    """
    values, failures = judged(system, rows, metrics, outcomes)
    kept = [outcomes[system, row.id] for row in rows]
    spent = [float(each.total_requested or each.total_forwarded) for each in kept]
    return Measured(values, np.array(spent, dtype=np.float64), tuple(failures))
