"""The plan of tuning, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coolfusion.checks.arguments import checked_fields
from coolfusion.config.options import FusionConfig
from coolfusion.config.plan import plan_recipe
from coolfusion.errors import UsageError
from coolfusion.evaluation.metrics import Metric
from coolfusion.evaluation.plan import row_metrics
from coolfusion.evaluation.tasks import Task
from coolfusion.tuning.proposals import Proposals, propose
from coolfusion.tuning.report import UNTUNED
from coolfusion.tuning.space import make_space
from coolfusion.tuning.splits import Split, split_rows


@dataclass(frozen=True, slots=True)
@checked_fields
class TuningPlan:
    """How to tune.

    - ``metric``: for rows without one of their own.
    - ``search``, ``num_trials``: the search over settings (``coolfusion.tuning.proposals``).
    - ``vary``: values by knob (``coolfusion.tuning.space``); None: all knobs that matter.
    - ``held_out``: the share of rows that are not used to choose, drawn by ``seed``.
    - ``num_shown``: how many of the best trials are measured on the held-out rows.
    """

    metric: str = "exact_match"
    search: str = "random"
    num_trials: int | None = None
    vary: Mapping[str, Sequence[Any]] | None = None
    held_out: float = 0.5
    seed: int = 0
    num_shown: int = 5

    def prepare(self, task: Task, sources: Sequence[str], base: FusionConfig) -> Prepared:
        """Metrics, split and proposals for the rows of ``task`` and the names of ``sources``.

        Raises ``UsageError`` for everything that can be checked without a model.
        """
        if self.num_shown < 1:
            raise UsageError(
                f"The number of trials shown is {self.num_shown}; it must be at least 1."
            )
        for name in sources:
            if name == UNTUNED or name.startswith(("trial ", "fusion(")):
                raise UsageError(
                    f'A source is named "{name}", which is the name of a setting here. Use another name.'
                )
        metrics = row_metrics(task, self.metric)
        split = split_rows(task, self.held_out, self.seed)
        plan_recipe(list(sources), {**base.said(), "names": list(sources)})
        of_references = metrics[task.rows[0].id].needs_likelihood
        space = make_space(
            sources,
            base,
            self.vary,
            of_references=of_references,
            only_weights=self.search == "swarm",
        )
        proposals = propose(space, self.search, self.num_trials, self.seed)
        return Prepared(metrics, split, proposals, of_references)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Metrics by row id, the two parts of the rows, and the proposed settings.

    With ``of_references`` the metric is about the references, and nothing is decoded.
    """

    metrics: dict[str | int, Metric]
    split: Split
    proposals: Proposals
    of_references: bool
