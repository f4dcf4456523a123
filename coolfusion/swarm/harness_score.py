"""A particle on a task of lm-evaluation-harness; importing this needs the extra ``harness``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from coolfusion.errors import UsageError
from coolfusion.evaluation.harness import CoolfusionLM
from coolfusion.evaluation.harness_tasks import run_task, tasks_in
from coolfusion.evaluation.harness_text import is_higher_better
from coolfusion.fusion import FusionModel


def harness_value(
    model: FusionModel,
    task: str,
    *,
    metric: str | None,
    limit: int,
    include_path: str | None,
    apply_chat_template: bool,
    max_new_tokens: int,
    batch_size: int,
) -> tuple[float, bool]:
    """The metric over a task or group, and whether higher is better.

    Raises ``UsageError`` for a task or metric that does not exist.
    """
    asked = CoolfusionLM(decoder=model.decoder, max_gen_toks=max_new_tokens, batch_size=batch_size)
    results = run_task(
        asked,
        task,
        tasks_in(include_path),
        limit=limit,
        apply_chat_template=apply_chat_template,
    )
    return summed_up(results, metric)


def summed_up(results: Mapping[str, Any], metric: str | None) -> tuple[float, bool]:
    """From lm-eval's results: the metric's mean over tasks, and whether higher is better."""
    values, senses = [], set()
    for task in results["higher_is_better"].keys() & results["n-samples"].keys():
        # Keys are "metric,filter" in the order of the task's configuration.
        numbers = {
            key.partition(",")[0]: value
            for key, value in reversed(results["results"][task].items())
            if isinstance(value, (int, float)) and "_stderr" not in key and "," in key
        }
        wanted = metric or next(reversed(numbers), None)
        if wanted is None or wanted not in numbers:
            raise UsageError(
                f'The task "{task}" has no metric "{wanted}". It has {sorted(numbers)}.'
            )
        values.append(float(numbers[wanted]))
        senses.add(is_higher_better(results, task, wanted))
    if not values or len(senses) != 1:
        raise UsageError(
            "The group's tasks do not agree on a metric, so there is no mean. Search on one task of it."
        )
    return math.fsum(values) / len(values), senses.pop()
