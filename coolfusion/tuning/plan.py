"""What is to be tuned, and how, decided and checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
class TuningPlan:
    """How to tune.

    ``metric`` is for rows without one of their own. ``search`` and ``num_trials`` say how
    settings are walked (``coolfusion.tuning.proposals``), ``vary`` which knobs take which values
    (``coolfusion.tuning.space``; None: all that matter). A share ``held_out`` of the rows, drawn
    by ``seed``, takes no part in choosing; the ``num_shown`` best trials are measured on it.
    """

    metric: str = "exact_match"
    search: str = "random"
    num_trials: int | None = None
    vary: Mapping[str, Sequence[Any]] | None = None
    held_out: float = 0.5
    seed: int = 0
    num_shown: int = 5

    def prepare(self, task: Task, sources: Sequence[str], base: FusionConfig) -> Prepared:
        """Settle what follows from the plan for these rows and names of sources.

        Raises ``UsageError`` for all that can be refused without a model.
        """
        if self.num_shown < 1:
            raise UsageError(
                f"The number of trials shown is {self.num_shown}; it must be at least 1."
            )
        for name in sources:
            if name == UNTUNED or name.startswith(("trial ", "fusion(")):
                raise UsageError(
                    f'A source is named "{name}", which is the name of a setting here. Name it otherwise.'
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
    """Metrics by row id, the two parts of the rows, and the settings that will be tried.

    With ``of_references`` nothing is decoded: the metric is about the references.
    """

    metrics: dict[str | int, Metric]
    split: Split
    proposals: Proposals
    of_references: bool
