"""``coolfusion swarm``: search between experts of one architecture for the best checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from coolfusion.cli import files, options
from coolfusion.cli.command_parser import add_command
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.prompts import check_chat
from coolfusion.cli.tasks import find_functions_here
from coolfusion.cli.terminal import say
from coolfusion.config.options import BY_NAME
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.swarm import Experts, Measure, Result, SwarmPlan, SwarmProgress, Utility

HARNESS = "lm_eval:"
COEFFICIENTS = {
    "inertia": "weight of a particle's velocity (default 0.2)",
    "cognitive": "pull of its own best (default 0.3)",
    "social": "pull of the best of all (default 0.4)",
    "repel": "push from the worst of all (default 0.05)",
    "step_length": "share of its velocity that a particle moves (default 0.8)",
    "decay": "factor of the step length after each iteration (default 0.95)",
    "floor": "least step length (default 0.1)",
}


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser = add_command(
        commands,
        "swarm",
        summary="search between checkpoints of one architecture for the best of all",
        description="Particle swarm search (Model Swarms) between checkpoints of one architecture,\n"
        "or LoRA adapters, for the one that does best on development examples.",
        example="coolfusion swarm -m folder/one -m folder/two --task rows.jsonl --output found",
    )
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        metavar="MODEL",
        help="folder or hub id of an expert or a LoRA adapter; repeat for more, or name a fusion file",
    )
    parser.add_argument(
        "--on", metavar="MODEL", help="the checkpoint of adapters (default: what they name)"
    )
    parser.add_argument("--dtype", help="how particles are stored (default: as the first expert)")
    parser.add_argument(
        "--ignore", action="append", metavar="PATTERN", help="leave out tensors of such a name"
    )
    _add_utility_options(parser)
    _add_search_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="where the best checkpoint, the log and a report go; finished work is kept",
    )
    output.add_argument(
        "--scratch", metavar="DIR", help="where particles are written meanwhile (default: there)"
    )
    output.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    parser.shows("model", "task", "metric", "utility", "limit", "max_new_tokens", "stop", "device")
    parser.shows("batch_size", "particles", "iterations", "patience", "trials", "seed", "output")
    parser.set_defaults(run=run)


def _add_utility_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("utility", "the harmonic mean, where there are several")
    group.add_argument(
        "--task",
        action="append",
        metavar="FILE",
        help="development examples as for eval, or lm_eval:NAME; repeat for more",
    )
    group.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="as for eval; one for all tasks, or one for each in order (default: exact_match, or what the "
        "lm_eval task has first)",
    )
    group.add_argument(
        "--utility",
        action="append",
        metavar="package.module:function",
        help="your function of (folder of a checkpoint, device); repeat for more",
    )
    group.add_argument(
        "--limit", type=int, default=200, metavar="N", help="the first N rows of a task"
    )
    group.add_argument("--system", metavar="TEXT", help="a system message before each prompt")
    group.add_argument(
        "--raw", action="store_true", help="continue prompts as they stand, without chat templates"
    )
    options.add_option(group, BY_NAME["max_new_tokens"])
    options.add_option(group, BY_NAME["stop"])
    group.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows decoded side by side"
    )
    group.add_argument(
        "--include-path", metavar="FOLDER", help="task files of your own for lm_eval:NAME"
    )
    group.add_argument(
        "--device",
        help="cpu, cuda ...; comma-separated to evaluate on several at once (default: "
        f"{BY_NAME['device'].default_text})",
    )
    group.add_argument(
        "--run-dtype",
        help="auto, float32, bfloat16 or float16, for evaluations (default: "
        f"{BY_NAME['dtype'].default_text})",
    )
    options.add_option(group, BY_NAME["trust_remote_code"])
    options.add_option(group, BY_NAME["lossy_ok"])


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument("--particles", type=int, default=20, metavar="N", help="of the swarm")
    group.add_argument("--iterations", type=int, default=50, metavar="N", help="at most")
    group.add_argument(
        "--patience",
        type=int,
        default=10,
        metavar="N",
        help="iterations without a better best after which the search ends",
    )
    group.add_argument(
        "--restart",
        type=int,
        default=5,
        metavar="N",
        help="iterations without a better own best after which a particle goes back to it",
    )
    group.add_argument(
        "--reach",
        type=float,
        default=1.0,
        metavar="X",
        help="crossover t a + (1 - t) b with t up to this; 2 goes beyond the experts",
    )
    for name, text in COEFFICIENTS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    group.add_argument(
        "--trials",
        type=int,
        default=1,
        metavar="N",
        help="searches with coefficients drawn from the published grid, those given fixed",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the noise of the search"
    )


def run(arguments: argparse.Namespace) -> int:
    """Search, write the result and return the exit code."""
    if arguments.output == files.STANDARD or files.status_of(arguments.output) is None:
        files.check_writable(arguments.output)
    if not arguments.task and not arguments.utility:
        raise UsageError("Say what makes a particle good: --task, or --utility.")
    find_functions_here()
    from coolfusion.swarm import swarm

    experts, utility, plan = _experts(arguments), _utility(arguments), _plan(arguments)
    options.quiet_transformers()
    with ProgressBar("searching", "evaluation") as bar:
        result = swarm(
            experts,
            utility,
            arguments.output,
            plan=plan,
            devices=options.split_list(arguments.device) or (None,),
            scratch=arguments.scratch,
            progress=None if arguments.quiet else _shown(bar, plan),
        )
    if not arguments.quiet:
        say(_summary(result))
    return 0


def _shown(bar: ProgressBar, plan: SwarmPlan) -> Callable[[SwarmProgress], None]:
    """A bar on a terminal, and elsewhere a line for each iteration."""
    said: set[tuple[int, int]] = set()

    def show(progress: SwarmProgress) -> None:
        text = _state(progress, plan)
        bar.show(progress.done, progress.total, text)
        at = (progress.trial, progress.iteration)
        if not sys.stderr.isatty() and at not in said:
            said.add(at)
            say(text)

    return show


def _experts(arguments: argparse.Namespace) -> Experts:
    from coolfusion.swarm import Experts

    ignored = tuple(arguments.ignore or ())
    return Experts(tuple(options.checkpoints_of(arguments)), arguments.dtype, ignored)


def _utility(arguments: argparse.Namespace) -> Utility:
    from coolfusion.evaluation import read_task
    from coolfusion.swarm import (
        Answering,
        FunctionMeasure,
        HarnessMeasure,
        Loading,
        TaskMeasure,
        Utility,
    )

    check_chat(arguments)
    for name in ("limit", "max_new_tokens", "batch_size"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is {getattr(arguments, name)}; it must be at least 1.")
    tasks, metrics = arguments.task or [], arguments.metric or [None]
    if len(metrics) not in (1, len(tasks)):
        raise UsageError(
            f"{len(tasks)} tasks were given {len(metrics)} metrics. Give one for all, or one each."
        )
    answering = Answering(
        arguments.max_new_tokens,
        tuple(arguments.stop),
        arguments.system,
        arguments.raw,
        arguments.batch_size,
    )
    measures: list[Measure] = []
    for number, task in enumerate(tasks):
        metric = metrics[number % len(metrics)]
        if task.startswith(HARNESS):
            name = task.removeprefix(HARNESS)
            measures.append(
                HarnessMeasure(name, metric, arguments.limit, arguments.include_path, answering)
            )
        else:
            rows = read_task(task).first(arguments.limit)
            measures.append(TaskMeasure(rows, metric or "exact_match", answering))
    measures += [FunctionMeasure(name) for name in arguments.utility or ()]
    loading = Loading(arguments.run_dtype, arguments.trust_remote_code, arguments.lossy_ok)
    return Utility(tuple(measures), loading)


def _plan(arguments: argparse.Namespace) -> SwarmPlan:
    from coolfusion.search import PUBLISHED_GRID, Coefficients, Grid, Limits
    from coolfusion.swarm import SwarmPlan

    given = {name: getattr(arguments, name) for name in COEFFICIENTS}
    given = {name: value for name, value in given.items() if value is not None}
    fixed = {name: (value,) for name, value in given.items() if name in PUBLISHED_GRID.axes}
    return SwarmPlan(
        num_particles=arguments.particles,
        reach=arguments.reach,
        coefficients=Coefficients(**given),
        limits=Limits(arguments.iterations, arguments.patience, arguments.restart),
        trials=arguments.trials,
        grid=Grid({**PUBLISHED_GRID.axes, **fixed}),
        seed=arguments.seed,
    )


def _state(progress: SwarmProgress, plan: SwarmPlan) -> str:
    trial = f"trial {progress.trial + 1} of {plan.trials}, " if plan.trials > 1 else ""
    best = "none yet" if progress.best is None else f"{progress.best:.4f}"
    return f"{trial}iteration {progress.iteration} of {plan.limits.max_iterations}, best {best}"


def _summary(result: Result) -> str:
    expert = result.alone[result.best_expert]
    return (
        f"Best utility {result.best.utility:.4f} (best expert: {result.experts[result.best_expert]}, "
        f"{expert.utility:.4f}) of {result.num_evaluations} evaluations, {result.num_new} of them new, "
        f"{result.seconds:.1f} s: {result.checkpoint}"
    )
