"""``coolfusion merge``: several checkpoints of one architecture into one checkpoint."""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING, Any

from coolfusion.cli import options
from coolfusion.cli.command_parser import add_command
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.terminal import say
from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.merging import MergeProgress, MergeRecipe

METHODS = "linear, slerp, task_arithmetic, ties, dare or dare_ties"
PARAMETERS = {
    "t": "slerp: how far along the arc from the first model to the second (default 0.5)",
    "density": "ties: the share of each task vector that is kept (default 0.2)",
    "drop": "dare, dare_ties: the probability of dropping an entry (default 0.5)",
    "scale": "task_arithmetic, ties, dare, dare_ties: factor of what is added (default 1)",
}
STEP = ("model", "on", "base", "weights", "seed", "dtype", *PARAMETERS)


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser = add_command(
        commands,
        "merge",
        summary="merge checkpoints of one architecture into one checkpoint",
        description="Merge checkpoints of one architecture, or LoRA adapters, into one checkpoint.",
        example="coolfusion merge --method linear -m folder/one -m folder/two --weights 0.7,0.3 --output merged",
    )
    parser.add_argument("--method", help=METHODS)
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        metavar="MODEL",
        help="folder or hub id of a checkpoint or a LoRA adapter; repeat for more, or name a fusion file",
    )
    parser.add_argument("--base", metavar="MODEL", help="the checkpoint the models came from")
    parser.add_argument(
        "--on", metavar="MODEL", help="the checkpoint of adapters (default: what they name)"
    )
    parser.add_argument("--weights", metavar="W,W", help="one for each model (default: 1 each)")
    for name, text in PARAMETERS.items():
        parser.add_argument(f"--{name}", type=float, metavar="X", help=text)
    parser.add_argument("--seed", type=int, metavar="N", help="for dare and dare_ties (default 0)")
    parser.add_argument(
        "--dtype", help="float32, bfloat16 ... (default: the base's, or the first's)"
    )
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file that says all of the above")
    parser.add_argument(
        "--ignore", action="append", metavar="PATTERN", help="leave out tensors of such a name"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    output.add_argument("--overwrite", action="store_true", help="replace an earlier merge there")
    output.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="such as 500MB")
    output.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    parser.shows("method", "model", "base", "on", "weights", "seed", "dtype", "recipe", *PARAMETERS)
    parser.shows("output", "overwrite")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Merge and return the exit code."""
    shard_bytes = parse_size(arguments.max_shard_size)
    _check(arguments)
    from coolfusion.merging import merge

    recipe = _recipe(arguments)
    last: list[MergeProgress] = []
    begun = time.perf_counter()
    with ProgressBar("merging", "B") as bar:

        def show(progress: MergeProgress) -> None:
            last[:] = [progress]
            if not arguments.quiet:
                bar.show(progress.num_bytes, progress.all_bytes, progress.name)

        folder = merge(
            recipe,
            arguments.output,
            overwrite=arguments.overwrite,
            max_shard_bytes=shard_bytes,
            progress=show,
        )
    if not arguments.quiet and last:
        seconds = time.perf_counter() - begun
        size = _bytes(last[0].all_bytes)
        say(f"Merged {last[0].all_tensors} tensors, {size}, in {seconds:.1f} s: {folder}")
    return 0


def parse_size(text: str) -> int:
    """Bytes from a size such as ``500MB``. Raises ``UsageError`` for anything else."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kMGT]?)B?", text.strip())
    if found is None or float(found[1]) == 0:
        raise UsageError(f'--max-shard-size is "{text}"; write a size such as 500MB or 5GB.')
    return int(float(found[1]) * 1000 ** " kMGT".index(found[2] or " "))


def _check(arguments: argparse.Namespace) -> None:
    if arguments.recipe is None:
        if arguments.method is None or not arguments.model:
            raise UsageError("Say what to merge: --method and -m for each model, or --recipe.")
        return
    given = [name for name in ("method", *STEP, "ignore") if getattr(arguments, name) is not None]
    if given:
        raise UsageError(f"--{given[0]} and --recipe both say what to merge. Use one of them.")


def _recipe(arguments: argparse.Namespace) -> MergeRecipe:
    from coolfusion.merging import Merge, MergeRecipe, read_recipe

    if arguments.recipe is not None:
        return read_recipe(arguments.recipe)
    weights = options.parse_weights(arguments.weights)
    if isinstance(weights, dict):
        raise UsageError("--weights of a merge go by order, as in 0.7,0.3: one for each model.")
    values = {name: getattr(arguments, name) for name in PARAMETERS}
    merge = Merge(
        arguments.method,
        tuple(options.checkpoints_of(arguments)),
        arguments.base,
        tuple(weights or ()),
        {name: value for name, value in values.items() if value is not None},
        arguments.seed or 0,
    )
    return MergeRecipe(merge, arguments.dtype, tuple(arguments.ignore or ()))


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
