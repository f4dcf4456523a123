"""``coolfusion eval``: every source alone, whole-answer baselines and the fusion on your task."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coolfusion.cli import options
from coolfusion.cli.command_parser import add_command
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.prompts import check_chat
from coolfusion.cli.resume import resume_settings
from coolfusion.cli.tasks import find_functions_here, output_folder, row_prompts, show_report
from coolfusion.cli.terminal import say
from coolfusion.config.options import FUSION, MODELS, RESPONSE, SPEED, STRATEGY
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.backends.sampling import Sampling
    from coolfusion.decoding.request import Request
    from coolfusion.evaluation import EvaluationPlan, Report

HARNESS = "lm_eval:"


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser = add_command(
        commands,
        "eval",
        summary="find out whether fusing pays on your own task",
        description="Measure every source alone, whole-answer baselines and the fusion on a task.",
        example="coolfusion eval -m folder/one -m folder/two --task rows.jsonl --output results",
    )
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--task",
        required=True,
        metavar="FILE",
        help="JSON lines with prompt or messages, reference and, if wanted, id and metric; or "
        "lm_eval:NAME for a task of lm-evaluation-harness",
    )
    group.add_argument(
        "--metric",
        metavar="NAME",
        help="exact_match (default), exact_match:REGEX, last_number, contains, perplexity, or "
        "package.module:function",
    )
    group.add_argument(
        "--systems",
        metavar="NAMES",
        help="comma-separated: rerank, cool_r, self_consistency, majority, fusion (default: these), "
        "mixture, mixture(geometric), mixture(top_k_union); the sources alone are always run",
    )
    group.add_argument(
        "--limit", type=int, metavar="N", help="only the first N rows (default: all)"
    )
    group.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="samples of each source in votes (default: as many as cost what fusing costs)",
    )
    group.add_argument(
        "--sample-temperature", type=float, default=0.7, metavar="T", help="of those samples"
    )
    group.add_argument("--system", metavar="TEXT", help="a system message before each prompt")
    group.add_argument(
        "--raw", action="store_true", help="continue prompts as they stand, without chat templates"
    )
    group.add_argument(
        "--include-path", metavar="FOLDER", help="task files of your own for lm_eval:NAME"
    )
    options.add_groups(parser, MODELS, FUSION, SPEED, STRATEGY, RESPONSE)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", metavar="FOLDER", help="where answers and reports go; finished work is kept"
    )
    output.add_argument("--json", action="store_true", help="print the report as one JSON object")
    output.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows decoded side by side"
    )
    parser.shows("task", "metric", "systems", "limit", "output")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write the reports and return the exit code."""
    check_chat(arguments)
    find_functions_here()
    request = options.request_of(arguments)
    if arguments.task.startswith(HARNESS):
        report = _harness_report(arguments, request)
    else:
        report = _report(arguments, request)
    return _finish(arguments, report)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a record must share with a run: answers, and guesses, since it reports their cost."""
    guessing = {"speculation": arguments.speculation, "drafter": arguments.drafter}
    return {**resume_settings(arguments), **guessing}


def _report(arguments: argparse.Namespace, request: Request) -> Report:
    """The report on a file of rows. All that can be refused is, before any model is loaded."""
    from coolfusion.evaluation import Record, evaluate, read_task
    from coolfusion.evaluation.plan import row_metrics

    metric = arguments.metric or "exact_match"
    task = read_task(arguments.task).first(arguments.limit)
    scored = row_metrics(task, metric)[task.rows[0].id].needs_likelihood
    plan = _plan(arguments, request.sampling)
    kept = {"outcomes": "likelihoods of the references" if scored else "answers"}
    with Record(_answers(arguments), {**_settings(arguments), **kept}) as record:
        record.check_rows(task.rows)
        fusion = options.load_fusion(arguments)
        with ProgressBar("rows", "row") as bar:
            return evaluate(
                fusion.segments,
                task,
                fused=fusion.decoder_for(),
                metric=metric,
                request=request,
                plan=plan,
                record=record,
                prompt_of=row_prompts(arguments, fusion),
                progress=lambda system, done, total: bar.show(done, total, system),
            )


def _plan(arguments: argparse.Namespace, sampling: Sampling) -> EvaluationPlan:
    from coolfusion.evaluation import SYSTEMS, EvaluationPlan

    if arguments.sample_temperature <= 0:
        raise UsageError(
            f"--sample-temperature is {arguments.sample_temperature}; samples of one source differ "
            "only above 0."
        )
    return EvaluationPlan(
        tuple(options.split_list(arguments.systems) or SYSTEMS),
        arguments.samples,
        replace(sampling, temperature=arguments.sample_temperature),
        arguments.batch_size,
    )


def _answers(arguments: argparse.Namespace) -> Path | None:
    """Where finished rows are kept; the folder is made if its parent exists."""
    if arguments.output is None:
        return None
    names = ("answers.jsonl", "report.json", "report.md")
    folder = output_folder(arguments.output, names, arguments.task)
    return folder / "answers.jsonl"


def _harness_report(arguments: argparse.Namespace, request: Request) -> Report:
    """The report on a task of lm-evaluation-harness."""
    from coolfusion.evaluation import Record

    if arguments.strategy == "mixture":
        raise UsageError(
            "Tasks of lm_eval are run for fusions by segments. Leave --strategy mixture out, or give "
            "a file of rows."
        )
    if arguments.systems is not None or arguments.samples is not None:
        raise UsageError(
            "Tasks of lm_eval are run for every source and the fusion; --systems and --samples are "
            "for files of rows."
        )
    try:
        from coolfusion.evaluation.harness_tasks import evaluate_harness_task
    except ImportError as error:
        raise UsageError(
            f"--task {arguments.task} needs lm-evaluation-harness ({error}). Install it with: pip "
            'install "coolfusion[harness]".'
        ) from None
    answers = _answers(arguments)
    settings = {**_settings(arguments), "task": arguments.task, "limit": arguments.limit}
    with Record(answers, settings) as record:
        fusion = options.load_fusion(arguments)
        record.begin()
        with ProgressBar("systems", "system") as bar:
            return evaluate_harness_task(
                fusion.decoder,
                arguments.task.removeprefix(HARNESS),
                metric=arguments.metric,
                limit=arguments.limit,
                apply_chat_template=not arguments.raw and fusion.has_chat_templates,
                include_path=arguments.include_path,
                cache=None if answers is None else answers.parent,
                max_new_tokens=request.max_new_tokens,
                batch_size=arguments.batch_size,
                progress=lambda system, done, total: bar.show(done, total, system),
            )


def _finish(arguments: argparse.Namespace, report: Report) -> int:
    """Show and write the report; 1 if some rows have no value."""
    from coolfusion.evaluation import as_dict, as_markdown, as_text

    forms = as_dict(report), as_text(report), as_markdown(report)
    folder = None if arguments.output is None else Path(arguments.output)
    show_report(*forms, as_json=arguments.json, folder=folder)
    if report.failures:
        num_lost = len(report.rows) - report.num_used
        kept = " Answers are kept; run again to try what failed." if arguments.output else ""
        say(f"{num_lost} of {len(report.rows)} rows have no value for some system.{kept}")
    return 1 if report.failures else 0
