"""``tune``: the best setting of a fusion for a task, chosen on some rows and tested on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coolfusion.backends.source import Source, check_names
from coolfusion.checks.arguments import checked
from coolfusion.config.options import FusionConfig
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import DEFAULT_SPECULATION
from coolfusion.decoding.segments.speculation import Speculation
from coolfusion.evaluation.records import Record
from coolfusion.evaluation.systems import PromptOf
from coolfusion.evaluation.tasks import Row, Task
from coolfusion.tokenization.prompts import Prompt
from coolfusion.tuning.objectives import Answers, Objective, recipe_of
from coolfusion.tuning.plan import TuningPlan
from coolfusion.tuning.references import References
from coolfusion.tuning.report import TuningReport
from coolfusion.tuning.run import TuningProgress, TuningRun


@checked
def tune(
    sources: Sequence[Source],
    task: Task,
    plan: TuningPlan | None = None,
    *,
    base: FusionConfig | None = None,
    request: Request | None = None,
    record: Record | None = None,
    prompt_of: PromptOf | None = None,
    batch_size: int = 32,
    speculation: Speculation | None = DEFAULT_SPECULATION,
    progress: Callable[[TuningProgress], None] | None = None,
) -> TuningReport:
    """Search for the setting of a fusion of ``sources`` that is best on a part of ``task``.

    ``base`` is the untuned setting that all others start from. It takes part, and is chosen if no
    trial is better. Between equal means the one with fewer drafted and scored tokens wins, then the
    earlier. ``record`` keeps outcomes, so the same call resumes an interrupted one, and chooses as
    if nothing had happened. Raises
    ``UsageError`` for a plan that does not fit the task, and ``CoolfusionError`` if no row has a
    value. A row without a value does not affect the others.
    """
    plan, base = plan or TuningPlan(), base or FusionConfig()
    names = [source.name for source in sources]
    check_names(names)
    prepared = plan.prepare(task, names, base)
    prompt_of = prompt_of or _as_it_stands
    record = record if record is not None else Record()
    record.check_rows(task.rows)
    objective: Objective
    if prepared.of_references:
        objective = References(
            tuple(sources), recipe_of(base, sources), prepared.metrics, prompt_of, record
        )
    else:
        objective = Answers(
            tuple(sources),
            prepared.metrics,
            request or Request(),
            prompt_of,
            record,
            batch_size,
            speculation,
        )
    tuning = TuningRun(
        objective, prepared.split, prepared.proposals, names, base, progress or _silent
    )
    tuning.search()
    metric = ", ".join(sorted({each.name for each in prepared.metrics.values()}))
    return tuning.report(task.name, metric, plan)


def _as_it_stands(row: Row) -> Prompt:
    return row.prompt


def _silent(_: TuningProgress) -> None:
    """Show nothing."""
