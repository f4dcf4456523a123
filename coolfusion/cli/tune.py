"""``coolfusion tune``: weights, reranker, granularity and gate from a few rows with references."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coolfusion.cli import options
from coolfusion.cli.command_parser import add_command
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.prompts import check_chat
from coolfusion.cli.resume import resume_settings
from coolfusion.cli.tasks import find_functions_here, output_folder, row_prompts, show_report
from coolfusion.cli.terminal import say
from coolfusion.config.options import FUSION, MODELS, OPTIONS, RESPONSE, SPEED
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.config.options import FusionConfig
    from coolfusion.evaluation import Task
    from coolfusion.tuning import TuningPlan, TuningProgress, TuningReport

FILES = ("fusion.toml", "trials.jsonl", "report.json", "report.md")
# Options that the search varies, so that answers are kept by their values.
VARIED = ("reranker", "boundary", "gate", "weights", "lead")


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser = add_command(
        commands,
        "tune",
        summary="find weights, reranker, granularity and gate for your own task",
        description="Search for the setting of a fusion that is best on a task, and write it to a "
        "file that\ngenerate, eval and inspect accept.",
        example="coolfusion tune -m folder/one -m folder/two --task rows.jsonl --output tuned",
    )
    _add_search_options(parser.add_argument_group("tuning"))
    options.add_groups(parser, MODELS, FUSION, SPEED, RESPONSE)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where fusion.toml, reports and finished work go; the same command goes on from there",
    )
    output.add_argument("--json", action="store_true", help="print the report as one JSON object")
    output.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows decoded side by side"
    )
    parser.shows("task", "metric", "search", "trials", "vary", "output")
    parser.set_defaults(run=run)


def _add_search_options(group: Any) -> None:
    group.add_argument(
        "--task",
        required=True,
        metavar="FILE",
        help="JSON lines with prompt or messages, reference and, if wanted, id and metric",
    )
    group.add_argument(
        "--metric",
        default="exact_match",
        metavar="NAME",
        help="exact_match (default), exact_match:REGEX, last_number, contains, perplexity, or "
        "package.module:function",
    )
    group.add_argument(
        "--search",
        default="random",
        metavar="NAME",
        help="random (default), grid, or swarm: particles in the space of weights",
    )
    group.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="settings tried at most (default: 20, and all of a grid)",
    )
    group.add_argument(
        "--vary",
        action="append",
        nargs="+",
        metavar=("KNOB", "VALUE"),
        help=f"weights, or {' or '.join(each.name for each in OPTIONS if each.tried)} with the values "
        "to try; repeatable (default: all that matter)",
    )
    group.add_argument(
        "--held-out",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the rows, to judge what was chosen by the others (default: 0.5)",
    )
    group.add_argument(
        "--show",
        type=int,
        default=5,
        metavar="N",
        help="best trials that are reported (default: 5)",
    )
    group.add_argument(
        "--limit", type=int, metavar="N", help="only the first N rows (default: all)"
    )
    group.add_argument("--system", metavar="TEXT", help="a system message before each prompt")
    group.add_argument(
        "--raw", action="store_true", help="continue prompts as they stand, without chat templates"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tune, write the files and return the exit code."""
    _check(arguments)
    find_functions_here()
    from coolfusion.config.file import write_fusion_file
    from coolfusion.evaluation import read_task

    options.request_of(arguments)  # refuses impossible limits
    task = read_task(arguments.task).first(arguments.limit)
    names, base = _base(arguments)
    plan = _plan(arguments)
    plan.prepare(task, names, base)  # refuses all that can be refused without a model
    folder = output_folder(arguments.output, FILES, arguments.task)
    report = _tuned(arguments, task, plan, base)
    write_fusion_file(folder / "fusion.toml", _complete(arguments, names, report))
    return _finish(arguments, report, folder)


def _check(arguments: argparse.Namespace) -> None:
    check_chat(arguments)
    if arguments.batch_size < 1:
        raise UsageError(f"--batch-size is {arguments.batch_size}; it must be at least 1.")
    if arguments.drafter is not None:
        raise UsageError(
            "--drafter guesses for one fusion, and tuning tries many. Leave it out; it changes no answer."
        )


def _base(arguments: argparse.Namespace) -> tuple[list[str], FusionConfig]:
    """The sources' names, and the untuned setting that the options describe."""
    from coolfusion.config.file import config_from
    from coolfusion.config.plan import plan_recipe, recipe_options

    said = options.said(arguments)
    names, _ = plan_recipe(arguments.model, said)
    given = recipe_options(said)
    if given["preset"] == "default":
        del given["preset"]
    if isinstance(given.get("weights"), list):
        given["weights"] = dict(zip(names, given["weights"], strict=True))
    return names, config_from(given)


def _plan(arguments: argparse.Namespace) -> TuningPlan:
    from coolfusion.tuning import TuningPlan

    vary: dict[str, list[str]] | None = None
    if arguments.vary is not None:
        vary = {}
        for knob, *values in arguments.vary:
            vary[knob] = [*vary.get(knob, []), *values]
    return TuningPlan(
        arguments.metric,
        arguments.search,
        arguments.trials,
        vary,
        arguments.held_out,
        arguments.seed,
        arguments.show,
    )


def _tuned(
    arguments: argparse.Namespace, task: Task, plan: TuningPlan, base: FusionConfig
) -> TuningReport:
    """The report; every finished row of every trial is in the folder before the next begins."""
    from coolfusion.decoding.segments.decoder import DEFAULT_SPECULATION
    from coolfusion.evaluation import Record
    from coolfusion.tuning import tune

    log = Path(arguments.output) / "trials.jsonl"
    with Record(log, _settings(arguments, task)) as record:
        record.check_rows(task.rows)
        fusion = options.load_fusion(arguments)
        with ProgressBar("tuning", "trial") as bar:
            return tune(
                fusion.sources,
                task,
                plan,
                base=base,
                request=options.request_of(arguments),
                record=record,
                prompt_of=row_prompts(arguments, fusion),
                batch_size=arguments.batch_size,
                speculation=DEFAULT_SPECULATION if arguments.speculation else None,
                progress=_Shown(bar, plan.metric).show,
            )


class _Shown:
    """Progress on stderr: a line for each new best, and on a terminal a bar of trials."""

    def __init__(self, bar: ProgressBar, metric: str) -> None:
        self._bar = bar
        self._metric = metric
        self._best: float | None = None

    def show(self, progress: TuningProgress) -> None:
        if progress.best_score is not None and progress.best_score != self._best:
            self._best = progress.best_score
            self._bar.hide()
            say(
                f"trial {progress.trial} of {progress.num_trials}: best {self._metric} so far "
                f"{progress.best_score:.4g}, {progress.best}"
            )
        best = "" if self._best is None else f", best {self._best:.4g}"
        self._bar.show(
            progress.trial,
            progress.num_trials,
            f"{progress.what}, row {progress.done} of {progress.num_rows}{best}",
        )


def _settings(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    # Where all answers are greedy, the seed is only that of the search.
    samples = any(row.options.get("temperature", arguments.temperature) for row in task.rows)
    return resume_settings(arguments, *VARIED, *(() if samples else ("seed",)))


def _complete(
    arguments: argparse.Namespace, names: list[str], report: TuningReport
) -> FusionConfig:
    """The chosen setting with the models it is for; the built-in ones need not be named."""
    from dataclasses import replace

    models = tuple(arguments.model or ())
    named = bool(models) or arguments.names is not None
    return replace(report.best, models=models, names=tuple(names) if named else ())


def _finish(arguments: argparse.Namespace, report: TuningReport, folder: Path) -> int:
    """Show and write the report; 1 if some rows have no value."""
    from coolfusion.tuning import as_dict, as_markdown, as_text

    forms = as_dict(report), as_text(report), as_markdown(report)
    show_report(*forms, as_json=arguments.json, folder=folder)
    say(f"Wrote {folder / 'fusion.toml'}: use it with --config, or in FusionModel.from_pretrained.")
    if report.failures:
        say("Some rows have no value. What was answered is kept; run again to try what failed.")
    return 1 if report.failures else 0
