"""Tasks of lm-evaluation-harness: every source alone and the fusion, in one report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import lm_eval
from lm_eval.tasks import TaskManager

from coolfusion.backends.base import forget
from coolfusion.decoding.answers.rerank import FUSED
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.errors import UsageError
from coolfusion.evaluation.harness import CoolfusionLM
from coolfusion.evaluation.harness_text import is_higher_better
from coolfusion.evaluation.metrics import Metric
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.report import Report, report_on
from coolfusion.evaluation.run import Progress
from coolfusion.evaluation.tasks import Row, Task


def evaluate_harness_task(
    decoder: SegmentDecoder,
    name: str,
    *,
    metric: str | None = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
    include_path: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Run lm-eval's task or group ``name`` for every source alone and for the fusion.

    ``metric`` is one of the task's (default: its first). ``include_path`` is a folder of your own
    task files, used instead of those of lm-eval. ``cache`` is a folder for finished requests,
    which are not computed again. A log-likelihood that lm-eval would turn into a perplexity
    (word, byte) is reported per row, as nats per word or byte. Tokens and seconds are a system's
    total, divided evenly among its rows; cached requests count as 0. Raises ``UsageError`` for an
    unknown task or metric.
    """
    manager = tasks_in(include_path)
    systems = {source.name: SegmentDecoder([source]) for source in decoder.sources}
    if FUSED in systems:
        raise UsageError(f'A source is named "{FUSED}", which is a system here. Name it otherwise.')
    systems[FUSED] = decoder
    record, rows, label, higher = Record(), {}, "", True
    for number, (system, alone) in enumerate(systems.items()):
        if progress is not None:
            progress(system, number, len(systems))
        for source in alone.sources:
            forget(source.backend)  # so that every system costs what it would cost alone
        model = CoolfusionLM(decoder=alone, max_gen_toks=max_new_tokens, batch_size=batch_size)
        results = run_task(
            model,
            name,
            manager,
            limit=limit,
            apply_chat_template=apply_chat_template,
            cache=_cache(cache, system),
        )
        values, label, higher = _values(results, metric)
        for row, (digest, value) in values.items():
            rows[row] = Row(row, str(row), ())
            record.add(
                Outcome(
                    system,
                    row,
                    digest,
                    value=value,
                    num_forwarded={k: v / len(values) for k, v in model.num_forwarded.items()},
                    seconds=model.seconds / len(values),
                )
            )
    judged = Metric(label, lambda *_: math.nan, str.strip, higher_is_better=higher)
    task = Task(name, tuple(rows.values()))
    sources = [source.name for source in decoder.sources]
    metrics = {row.id: judged for row in task.rows}
    return report_on(task, metrics, record, sources, list(systems), seed=seed)


def tasks_in(include_path: str | PathLike[str] | None) -> TaskManager:
    """The tasks of a folder, or of lm-eval itself where none is given."""
    own = None if include_path is None else str(include_path)
    return TaskManager(include_path=own, include_defaults=own is None)


def run_task(
    model: CoolfusionLM,
    name: str,
    tasks: TaskManager,
    *,
    limit: int | None,
    apply_chat_template: bool,
    cache: str | None = None,
) -> Mapping[str, Any]:
    """lm-eval's results of a task or group. Raises ``UsageError`` for one that does not exist."""
    try:
        results: Mapping[str, Any] = lm_eval.simple_evaluate(
            model=model,
            tasks=[name],
            task_manager=tasks,
            limit=limit,
            apply_chat_template=apply_chat_template,
            use_cache=cache,
            bootstrap_iters=0,
        )
    except KeyError as error:
        raise UsageError(f'lm-eval has no task "{name}" ({error}).') from error
    return results


def _cache(folder: str | PathLike[str] | None, system: str) -> str | None:
    return None if folder is None else str(Path(folder) / f"lm_eval_{quote(system, safe='')}")


def _values(
    results: Mapping[str, Any], wanted: str | None
) -> tuple[dict[str, tuple[str, float]], str, bool]:
    """(fingerprint, value) by row for one metric under the first filter; its name and direction."""
    values, label, higher = {}, "", True
    for task, samples in results["samples"].items():
        metric = wanted or samples[0]["metrics"][0]
        if metric not in samples[0]["metrics"]:
            raise UsageError(
                f'The task "{task}" has no metric "{metric}". It has {samples[0]["metrics"]}.'
            )
        label, higher = metric, is_higher_better(results, task, metric)
        for sample in samples:
            if sample["filter"] != samples[0]["filter"]:
                continue
            value = sample[metric]
            if isinstance(value, (list, tuple)):
                value, higher = -value[0] / value[1], False
                label = f"{metric} (nats per unit)"
            values[f"{task}/{sample['doc_id']}"] = (sample["prompt_hash"], float(value))
    return values, label, higher
