"""Does fusing pay on your own task? Tasks, metrics, systems, statistics and reports.

    from coolfusion.evaluation import evaluate, read_task
    report = evaluate(fusion.decoder, read_task("task.jsonl"), metric="last_number")

``coolfusion eval`` is the same from the command line. ``harness`` is the bridge to EleutherAI's
lm-evaluation-harness. It needs the extra ``coolfusion[harness]`` and is imported only on demand.
"""

from coolfusion.evaluation.metrics import Metric, metric_named
from coolfusion.evaluation.plan import EvaluationPlan
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.report import (
    Report,
    SystemResult,
    as_dict,
    as_markdown,
    as_text,
    report_on,
)
from coolfusion.evaluation.run import evaluate
from coolfusion.evaluation.statistics import (
    bootstrap_interval,
    exact_mcnemar,
    paired_p_value,
    paired_permutation,
)
from coolfusion.evaluation.systems import SYSTEMS
from coolfusion.evaluation.tasks import Row, Task, make_task, read_task

__all__ = [
    "SYSTEMS",
    "EvaluationPlan",
    "Metric",
    "Outcome",
    "Record",
    "Report",
    "Row",
    "SystemResult",
    "Task",
    "as_dict",
    "as_markdown",
    "as_text",
    "bootstrap_interval",
    "evaluate",
    "exact_mcnemar",
    "make_task",
    "metric_named",
    "paired_p_value",
    "paired_permutation",
    "read_task",
    "report_on",
]
