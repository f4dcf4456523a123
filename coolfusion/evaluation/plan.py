"""The plan of an evaluation: its systems and the metric of each row, checked before it runs."""

from __future__ import annotations

from dataclasses import dataclass

from coolfusion.backends.sampling import Sampling
from coolfusion.checks.arguments import checked_fields
from coolfusion.decoding.answers.rerank import FUSED
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.errors import UsageError
from coolfusion.evaluation.metrics import Metric, metric_named
from coolfusion.evaluation.systems import SYSTEMS, is_mixture, mixture_named
from coolfusion.evaluation.tasks import Task

SAMPLED = Sampling(temperature=0.7)  # as arXiv 2203.11171 samples its largest models


@dataclass(frozen=True, slots=True)
@checked_fields
class EvaluationPlan:
    """The systems of an evaluation, and how they run.

    - ``systems``: names from ``SYSTEMS``, and of mixtures (``mixture``, ``mixture(RULE)``). The
      sources alone always run.
    - ``num_samples``: samples of each source for a vote; None: as many as cost what the fusion
      computed (equal compute).
    - ``sampling``: how they are sampled.
    - ``batch_size``: rows that are decoded together.
    - ``seed``: that of intervals and tests.

    Raises ``UsageError`` for unknown systems and for votes that cannot be.
    """

    systems: tuple[str, ...] = SYSTEMS
    num_samples: int | None = None
    sampling: Sampling = SAMPLED
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.systems:
            if is_mixture(name):
                mixture_named(name, Recipe())
            elif name not in SYSTEMS:
                raise UsageError(
                    f'There is no system "{name}". Choose from {", ".join(SYSTEMS)}, mixture and '
                    "mixture(RULE)."
                )
        if self.num_samples is not None and self.num_samples < 1:
            raise UsageError(f"num_samples is {self.num_samples}; it must be at least 1.")
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be at least 1.")
        votes = self._votes
        if votes and self.sampling.is_greedy:
            raise UsageError(
                f"{votes[0]} at temperature 0 would count one answer several times. Set a temperature."
            )
        if votes and self.num_samples is None and FUSED not in self.systems:
            raise UsageError(
                f"{votes[0]} at equal compute needs the fusion's cost. Add {FUSED} to the systems, "
                "or say how many samples each source gives."
            )

    @property
    def _votes(self) -> list[str]:
        return [name for name in self.systems if name in ("self_consistency", "majority")]


def row_metrics(task: Task, default: str) -> dict[str | int, Metric]:
    """The metric of each row by its id. Raises ``UsageError`` with the row of an unknown one."""
    known = {default: metric_named(default)}
    for row in task.rows:
        if row.metric is not None and row.metric not in known:
            try:
                known[row.metric] = metric_named(row.metric)
            except UsageError as error:
                raise UsageError(f"{row.place}: {error}") from None
    chosen = {row.id: known[row.metric or default] for row in task.rows}
    first = chosen[task.rows[0].id]
    for row in task.rows:
        if chosen[row.id].needs_likelihood != first.needs_likelihood:
            raise UsageError(
                f"{row.place} is measured by {chosen[row.id].name} and other rows by {first.name}; "
                "perplexity cannot be averaged with shares. Make two tasks of them."
            )
    return chosen
