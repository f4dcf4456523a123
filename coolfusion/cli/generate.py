"""``coolfusion generate``: answer one prompt as it is decoded, or a file of prompts."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from coolfusion.cli import options, rows
from coolfusion.cli.terminal import Painter, explain, say, summary
from coolfusion.errors import UsageError
from coolfusion.types import Generation, Step

if TYPE_CHECKING:
    from coolfusion.fusion import FusionModel
    from coolfusion.recipe import Request
    from coolfusion.tokenizer import Prompt
    from coolfusion.trace import TraceWriter


def add_parser(commands: Any) -> None:
    """Add this command's options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help="answer a prompt with several models at once",
        description="Answer a prompt, or a file of prompts, with several models at once.",
    )
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="the prompt; - reads standard input"
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="continue the prompt as it stands, without chat templates",
    )
    options.add_model_options(parser)
    options.add_fusion_options(parser)
    options.add_request_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", action="store_true", help="print one JSON object instead of streaming text"
    )
    output.add_argument(
        "--explain", action="store_true", help="say on stderr who won each step and why"
    )
    output.add_argument("--trace", metavar="FILE", help="record every step as JSON lines")
    output.add_argument("--input", metavar="FILE", help="JSON lines with a prompt or messages each")
    output.add_argument("--output", metavar="FILE", help="where rows go; finished rows are skipped")
    output.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows decoded side by side"
    )
    output.add_argument("--no-color", action="store_true")
    output.add_argument("-q", "--quiet", action="store_true", help="no legend and no summary")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Generate and return the exit code."""
    _check(arguments)
    request = options.request_of(arguments)
    if arguments.input is not None:
        return rows.run(arguments, request)
    text = options.read_text(arguments.prompt)
    if not text.strip():
        raise UsageError("The prompt is empty, so there is nothing to continue. Give some text.")
    with ExitStack() as stack:
        writer = None
        if arguments.trace is not None:
            from coolfusion.trace import TraceWriter

            writer = TraceWriter(
                stack.enter_context(options.open_for_writing(arguments.trace, "w"))
            )
        fusion = options.load_fusion(arguments)
        prompt = prompt_of(arguments, fusion, text)
        return _answer(arguments, fusion, prompt, request, writer)


def prompt_of(arguments: argparse.Namespace, fusion: FusionModel, text: str) -> Prompt:
    """The prompt as chat messages where the sources have templates, or as it stands with --raw.

    Raises ``UsageError`` where some sources have a template and others have none.
    """
    if arguments.raw:
        return text
    lacking = [
        s.name for s in fusion.sources if not getattr(s.tokenizer, "has_chat_template", True)
    ]
    if len(lacking) == len(fusion.sources) and arguments.system is None:
        say("No source has a chat template: the prompt is continued as it stands (--raw).")
        return text
    if lacking:
        raise UsageError(
            f'Source "{lacking[0]}" has no chat template, so it cannot be given a chat. Use --raw to '
            "continue the prompt as it stands, or leave that source out."
        )
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    return [*system, {"role": "user", "content": text}]  # type: ignore[list-item]


def result_dict(generation: Generation) -> dict[str, Any]:
    """A response as JSON-ready data, without its steps."""
    stats = generation.stats
    return {
        "text": generation.text,
        "stop_reason": generation.stop_reason.value,
        "stop_string": generation.stop_string,
        "sources": list(generation.sources),
        "wins": stats.wins,
        "num_steps": stats.num_steps,
        "num_contested": stats.num_contested,
        "tokens_forwarded": {name: spent.num_forwarded for name, spent in stats.usage.items()},
        "forward_passes": {name: spent.num_passes for name, spent in stats.usage.items()},
        "seconds": round(stats.seconds, 4),
        "warnings": list(generation.warnings),
    }


def _check(arguments: argparse.Namespace) -> None:
    if arguments.raw and arguments.system is not None:
        raise UsageError("--system needs a chat, and --raw says there is none. Use one of them.")
    if arguments.input is not None and arguments.prompt is not None:
        raise UsageError("Give a prompt or --input, not both.")
    if arguments.output is not None and arguments.input is None:
        raise UsageError(
            "--output holds the rows of --input. For one prompt, redirect standard output."
        )
    if arguments.input is not None and arguments.trace is not None:
        raise UsageError("--trace records one response. With --input, use --json rows instead.")
    if arguments.batch_size < 1:
        raise UsageError(f"--batch-size is {arguments.batch_size}; it must be at least 1.")


def _answer(
    arguments: argparse.Namespace,
    fusion: FusionModel,
    prompt: Prompt,
    request: Request,
    writer: TraceWriter | None,
) -> int:
    """Decode step by step, showing and recording each as soon as it is committed."""
    names = [source.name for source in fusion.sources]
    state = fusion.decoder.start(prompt, request)
    screen = Painter(names, sys.stdout, allowed=not (arguments.no_color or arguments.json))
    aside = Painter(names, sys.stderr, allowed=not arguments.no_color)
    recorder = _Recorder(writer)
    recorder.start(names, prompt)
    if screen.paints and not arguments.quiet:
        say(aside.legend(names))
    steps: list[Step] = []
    code = 0
    try:
        while state.stop_reason is None:
            state, step = fusion.decoder.step(state)
            steps.append(step)
            recorder.step(step)
            if not arguments.json:
                sys.stdout.write(
                    "" if arguments.explain else screen.by_drafters(step.text, step.drafters)
                )
                sys.stdout.flush()
            if arguments.explain:
                say(explain(step, aside))
    except KeyboardInterrupt:
        code = 130
    generation = fusion.decoder.finish(state, steps)
    recorder.end(generation)
    if arguments.json:
        print(json.dumps(result_dict(generation), ensure_ascii=False))
    else:
        ending = "" if generation.text.endswith("\n") else "\n"
        sys.stdout.write((_whole(steps, screen) if arguments.explain else "") + ending)
    for warning in generation.warnings:
        say(f"warning: {warning}")
    if not arguments.quiet:
        say("interrupted" if code else summary(generation))
    return code or recorder.code


def _whole(steps: list[Step], painter: Painter) -> str:
    return "".join(painter.by_drafters(step.text, step.drafters) for step in steps)


class _Recorder:
    """A trace that may be absent, and that may fail without taking the response with it."""

    def __init__(self, writer: TraceWriter | None) -> None:
        self._writer = writer
        self.code = 0

    def start(self, names: list[str], prompt: Prompt) -> None:
        """Open the response's record."""
        self._try(lambda writer: writer.start(names, prompt))

    def step(self, step: Step) -> None:
        """Record a step."""
        self._try(lambda writer: writer.step(step))

    def end(self, generation: Generation) -> None:
        """Close the response's record."""
        self._try(lambda writer: writer.end(generation))

    def _try(self, write: Any) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as error:
            say(f"warning: the trace ends here, it cannot be written: {error.strerror}")
            self._writer, self.code = None, 1
