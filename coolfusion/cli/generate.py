"""``coolfusion generate``: answer one prompt as it is decoded, or a file of prompts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import IO, TYPE_CHECKING, Any

from coolfusion.cli import files, options, rows
from coolfusion.cli.command_parser import add_command
from coolfusion.cli.process import as_json, exit_code, put
from coolfusion.cli.prompts import check_chat, own_prompts, prompt_of
from coolfusion.cli.terminal import Painter, explain, result_dict, say, summary
from coolfusion.config.options import FUSION, MODELS, RESPONSE, SPEED, STRATEGY
from coolfusion.errors import CoolfusionError, SourceError, UsageError
from coolfusion.trace import TraceFile, TraceWriter
from coolfusion.types import Generation, Step

if TYPE_CHECKING:
    from coolfusion.decoding.decoder import Decoder
    from coolfusion.decoding.request import Request
    from coolfusion.fusion import FusionModel
    from coolfusion.tokenization.prompts import OwnPrompt, Prompt


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser = add_command(
        commands,
        "generate",
        summary="answer a prompt with several models at once",
        description="Answer a prompt, or a file of prompts, with several models at once.",
        example='coolfusion generate -m folder/one -m folder/two --max-new-tokens 100 "Why is the sky blue?"',
    )
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="the prompt; - reads standard input"
    )
    parser.add_argument(
        "--prompt-for",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="what this source is given in place of PROMPT; repeatable",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="continue the prompt as it stands, without chat templates",
    )
    options.add_groups(parser, MODELS, FUSION, SPEED, STRATEGY, RESPONSE)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", action="store_true", help="print one JSON object instead of streaming text"
    )
    output.add_argument(
        "--explain", action="store_true", help="say on stderr who won each step and why"
    )
    output.add_argument(
        "--n-best",
        type=int,
        metavar="N",
        help="search with a beam of N and print the N best responses, one a line as JSON",
    )
    output.add_argument("--trace", metavar="FILE", help="record every step as JSON lines")
    output.add_argument("--input", metavar="FILE", help="JSON lines with a prompt or messages each")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="where rows go; finished rows are skipped (default: standard output)",
    )
    output.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows decoded side by side"
    )
    output.add_argument(
        "--max-batch-tokens",
        type=int,
        default=65_536,
        metavar="N",
        help="fewer rows side by side where they would need more cached tokens than this",
    )
    output.add_argument("--no-color", action="store_true", help="print no colors")
    output.add_argument("-q", "--quiet", action="store_true", help="no legend and no summary")
    parser.shows("system", "input", "output", "explain", "json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Generate and return the exit code."""
    _check(arguments)
    request = options.request_of(arguments)
    if arguments.input is not None:
        return rows.run(arguments, request)
    own = own_prompts(arguments)
    # With prompts for sources there may be no common one; nothing is waited for then.
    text = None if own and arguments.prompt is None else files.read_text(arguments.prompt)
    if text is not None and not text.strip():
        raise UsageError("The prompt is empty, so there is nothing to continue. Give some text.")
    if arguments.trace == files.STANDARD:
        raise UsageError('--trace is "-", but standard output has the response. Give a file.')
    if arguments.trace is not None:
        files.check_writable(arguments.trace, stream_ok=True)
    # Held before models are loaded, which takes long, and left as it was until the response begins.
    with files.open_trace(arguments.trace) if arguments.trace else nullcontext() as trace:
        return _one(arguments, request, text, own, trace)


def _one(
    arguments: argparse.Namespace,
    request: Request,
    text: str | None,
    own: Mapping[str, OwnPrompt],
    trace: TraceFile | IO[str] | None,
) -> int:
    """Answer one prompt."""
    from coolfusion.decoding.segments.beam import BeamSearch

    prompts: list[Prompt] = []  # one, made as soon as tokenizers tell who can be given a chat
    fusion = options.load_fusion(
        arguments, lambda sources: prompts.append(prompt_of(arguments, sources, text, own))
    )
    (prompt,) = prompts
    if arguments.n_best is not None:
        for ranked in BeamSearch(fusion.decoder, arguments.n_best).generate(prompt, request):
            put(as_json({**result_dict(ranked.generation), "cost": ranked.cost}))
        return 0
    decoder = fusion.decoder_for()
    state = decoder.start(prompt, request)
    # Only now that nothing can be refused any more may an old trace be replaced.
    recorder = _Recorder(trace, arguments.trace)
    recorder.start(fusion, prompt)
    return _answer(arguments, decoder, state, recorder)


def _check(arguments: argparse.Namespace) -> None:
    check_chat(arguments)
    if arguments.input is not None and arguments.prompt is not None:
        raise UsageError("Give a prompt or --input, not both.")
    if arguments.input is not None and arguments.prompt_for:
        raise UsageError(
            '--prompt-for is about one prompt. Rows of --input have "prompts" of their own.'
        )
    if arguments.output is not None and arguments.input is None:
        raise UsageError(
            "--output holds the rows of --input. For one prompt, redirect standard output."
        )
    for option in ("trace", "explain", "input"):
        if arguments.n_best is not None and getattr(arguments, option):
            raise UsageError(
                f"--{option} follows one way of decoding, and --n-best several. Leave one out."
            )
    if arguments.n_best is not None and arguments.strategy == "mixture":
        raise UsageError("--n-best searches among segments, and a mixture has none. Leave one out.")
    for option in ("trace", "explain"):
        if arguments.input is not None and getattr(arguments, option):
            raise UsageError(
                f"--{option} is about one response, and --input holds many. Leave one out."
            )
    for option in ("batch_size", "max_batch_tokens"):
        if getattr(arguments, option) < 1:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} is {getattr(arguments, option)}; it must be at least 1.")


def _answer(
    arguments: argparse.Namespace, decoder: Decoder[Any], state: Any, recorder: _Recorder
) -> int:
    """Decode step by step, showing and recording each as soon as it is committed."""
    names = [source.name for source in decoder.sources]
    screen = Painter(names, sys.stdout, allowed=not (arguments.no_color or arguments.json))
    aside = Painter(names, sys.stderr, allowed=not arguments.no_color)
    if screen.paints and not arguments.quiet:
        aside.say(aside.legend(names))
    steps: list[Step] = []
    failure: BaseException | None = None
    try:
        while state.stop_reason is None:
            state, step = decoder.step(state)
            steps.append(step)
            recorder.step(step)
            _show(step, arguments, screen, aside)
    except (KeyboardInterrupt, SourceError) as error:
        failure = error
    generation = decoder.finish(state, steps)
    recorder.end(generation)
    if arguments.json:
        put(as_json(result_dict(generation)))
    else:
        screen.write(_whole(steps, screen) if arguments.explain else "")
        screen.write("" if generation.text.endswith("\n") else "\n")
    for warning in generation.warnings:
        say(f"warning: {warning}")
    if isinstance(failure, SourceError):
        raise failure
    if not arguments.quiet:
        say("interrupted" if failure else summary(generation))
    return exit_code(failure) if failure else recorder.code


def _show(step: Step, arguments: argparse.Namespace, screen: Painter, aside: Painter) -> None:
    """One step as it happens: its text, or with --explain the reasons beside it."""
    if arguments.explain:
        aside.say(explain(step, aside))
    elif not arguments.json:
        screen.write(screen.by_drafters(step.text, step.drafters))


def _whole(steps: list[Step], painter: Painter) -> str:
    return "".join(painter.by_drafters(step.text, step.drafters) for step in steps)


class _Recorder:
    """A trace that may be absent, and that may fail without taking the response with it."""

    def __init__(self, file: TraceFile | IO[str] | None, path: str | None) -> None:
        self._path = path
        self._writer = None if file is None else TraceWriter(file)
        self.code = 0

    def start(self, fusion: FusionModel, prompt: Prompt) -> None:
        """Open the response's record."""
        self._try(lambda writer: writer.start([source.name for source in fusion.sources], prompt))

    def step(self, step: Step) -> None:
        """Record a step."""
        self._try(lambda writer: writer.step(step))

    def end(self, generation: Generation) -> None:
        """Close the response's record."""
        self._try(lambda writer: writer.end(generation))

    def _try(self, write: Callable[[TraceWriter], None]) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except (OSError, CoolfusionError) as error:
            reason = getattr(error, "strerror", None) or error
            say(f'warning: the trace ends here, "{self._path}" cannot be written: {reason}')
            self._writer, self.code = None, 1
