"""``coolfusion generate --input``: a file of prompts, decoded side by side and resumable.

An output has one line per answered row and nothing else, since people pipe it onward. Each line
therefore says by itself what it answers and how it was made:

    {"id": "b", "asked": "5f0c...", "text": "...", ..., "topic": "dogs", "settings": {...}}

``asked`` is a digest of the row's prompt and own options, ``settings`` holds the options of the
command that change an answer. Keys of the row that are the user's own, and the row's options, are
carried along. A run resumes an output only if all lines have its settings and every row still
asks what its line answers. Otherwise it is refused, and the file stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, final

from coolfusion.cli import files, options
from coolfusion.cli.process import abandon, as_json, put
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.prompts import prompt_of_row
from coolfusion.cli.resume import brief_settings, with_defaults
from coolfusion.cli.terminal import result_dict, say
from coolfusion.documents import json_text, parsed_json
from coolfusion.errors import BatchError, CoolfusionError, PromptError, SourceError, UsageError
from coolfusion.jsonlog import JsonLog, check_same_settings

if TYPE_CHECKING:
    from coolfusion.cli.prompts import Named
    from coolfusion.decoding.request import Request
    from coolfusion.evaluation.rows import InputRow
    from coolfusion.fusion import FusionModel
    from coolfusion.tokenization.prompts import Prompt

START = r'\{"id": (?:-?\d+|"(?:[^"\\]|\\.)*"), "asked": "[0-9a-f]{16}", '
# Keys of an output's line; a key of the user's own cannot have their names.
TAKEN = frozenset(
    "id asked error text stop_reason stop_string stop_sources sources wins num_steps "
    "num_contested tokens_forwarded forward_passes seconds warnings settings".split()
)


def run(arguments: argparse.Namespace, request: Request) -> int:
    """Answer every row that the output does not hold yet, and return the exit code."""
    from coolfusion.evaluation.rows import read_rows

    rows = read_rows(arguments.input)
    _check_own_keys(rows)
    # As they come back from a file, where a tuple is a list.
    settings = parsed_json(json_text(brief_settings(arguments)))
    if arguments.output in (None, files.STANDARD):
        return _answer(arguments, rows, request, Printed(), settings)
    files.check_distinct(arguments.output, arguments.input, "--input")
    files.check_writable(arguments.output, stream_ok=True)
    if files.is_stream(arguments.output):
        with files.open_stream(arguments.output) as stream:
            printed = Printed(stream, arguments.output)
            return _answer(arguments, rows, request, printed, settings)
    with AnswerFile(arguments.output, settings) as output:
        output.check(rows)
        return _answer(arguments, rows, request, output, settings)


@final
class AnswerFile:
    """The answers of an output file; each is on the disk before the next is taken.

    ``errors`` says of each answered row's id whether it is an error. Raises ``UsageError`` for a
    file of other settings, for one that no earlier run wrote and for one that is being written.
    """

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        self.errors: dict[str | int, bool] = {}
        self._asked: dict[str | int, str] = {}
        self._settings = settings
        self._path = Path(path)
        self._log = JsonLog(path, self._take, start=START)

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.__exit__(kind, error, trace)

    def check(self, rows: Iterable[InputRow]) -> None:
        """Raise ``UsageError`` if a row asks something else than what its line answers."""
        from coolfusion.evaluation.rows import check_unchanged

        changed = [
            f"{row.id!r} ({row.place})"
            for row in rows
            if self._asked.get(row.id, row.digest()) != row.digest()
        ]
        check_unchanged(f'"{self._path}"', changed)

    def add(self, record: dict[str, Any]) -> None:
        """Keep an answer. One that cannot be written is printed instead, and the error raised."""
        try:
            self._log.append(record)
        except CoolfusionError:
            Printed().add(record)
            say("The answer that could not be written is on standard output.")
            raise

    def _take(self, record: dict[str, Any]) -> None:
        row_id, asked, settings = record["id"], record["asked"], record["settings"]
        if not isinstance(row_id, (str, int)) or isinstance(row_id, bool) or row_id in self.errors:
            raise ValueError(row_id)
        if not isinstance(asked, str) or not isinstance(settings, dict):
            raise TypeError("a line says what it answers and how")
        if settings != self._settings:
            whole = with_defaults(settings), with_defaults(self._settings)
            check_same_settings(self._path, *whole)
        self.errors[row_id] = "error" in record
        self._asked[row_id] = asked


@final
class Printed:
    """Answers on standard output, or another stream of that ``name``; each at once.

    What a stream was given cannot be found again, so there is nothing to go on from.
    """

    def __init__(self, stream: IO[str] | None = None, name: str = "") -> None:
        self.errors: dict[str | int, bool] = {}
        self._stream, self._name = stream, name

    def add(self, record: dict[str, Any]) -> None:
        """Print an answer. Raises ``CoolfusionError`` where a stream that is named fails."""
        if self._stream is None:
            put(as_json(record))
            return
        try:
            self._stream.write(as_json(record, self._stream))
            self._stream.flush()
        except OSError as error:
            abandon(self._stream)
            raise CoolfusionError(
                f'Writing "{self._name}" failed: {error.strerror or error}. It is no file, so that a run '
                "begins anew; give a file as --output to go on from."
            ) from error


def _answer(
    arguments: argparse.Namespace,
    rows: Sequence[InputRow],
    request: Request,
    output: AnswerFile | Printed,
    settings: dict[str, Any],
) -> int:
    """Add an answer to the output for each row that has none, and return the exit code."""
    todo = [row for row in rows if row.id not in output.errors]
    num_failed = sum(output.errors.get(row.id, False) for row in rows)
    if todo:
        prompts: dict[object, Prompt | PromptError] = {}
        fusion = options.load_fusion(
            arguments, lambda sources: prompts.update(_prompts(arguments, sources, todo))
        )
        num_done = len(rows) - len(todo)
        with ProgressBar("rows", "row") as bar:
            bar.show(num_done, len(rows))
            for number, record in enumerate(answers(arguments, fusion, todo, prompts, request), 1):
                bar.hide()  # rows may go to the same terminal
                output.add({**record, "settings": settings})
                num_failed += "error" in record
                bar.show(num_done + number, len(rows))
    else:
        say(f"All {len(rows)} rows are finished already.")
    if num_failed:
        say(
            f"{num_failed} of {len(rows)} rows could not be answered and hold an error; delete their lines to try again."
        )
    return 1 if num_failed else 0


def _prompts(
    arguments: argparse.Namespace, sources: Sequence[Named], todo: Sequence[InputRow]
) -> dict[object, Prompt | PromptError]:
    """Each row's prompt by its id, or why it has none; no weights are needed for that."""
    prompts: dict[object, Prompt | PromptError] = {}
    for row in todo:
        try:
            prompts[row.id] = prompt_of_row(arguments, sources, row.prompt)
        except PromptError as error:
            prompts[row.id] = error
    return prompts


def answers(
    arguments: argparse.Namespace,
    fusion: FusionModel,
    todo: Sequence[InputRow],
    prompts: Mapping[object, Prompt | PromptError],
    request: Request,
) -> Iterator[dict[str, Any]]:
    """A record for each row, in the order in which they finish; a bad row's holds its error."""
    from coolfusion.evaluation.rows import request_with

    decoder = fusion.decoder_for()
    good: list[tuple[InputRow, Prompt, Request]] = []
    for row in todo:
        own = request_with(row.options, request)
        try:
            prompt = prompts[row.id]
            if isinstance(prompt, PromptError):
                raise prompt
            decoder.start(prompt, own)
            good.append((row, prompt, own))
        except PromptError as error:
            yield _record(row, {"error": str(error)})
        except UsageError as error:
            raise UsageError(f"{row.place}: {error}") from None
    try:
        for index, generation in decoder.generate_each(
            [prompt for _, prompt, _ in good],
            [own for _, _, own in good],
            max_rows=arguments.batch_size,
            max_tokens=arguments.max_batch_tokens,
        ):
            yield _record(good[index][0], result_dict(generation))
    except BatchError as failed:  # all other rows have been given by now
        for index in sorted(failed.errors):
            yield _record(good[index][0], _failed(failed.errors[index]))


def _failed(error: Exception) -> dict[str, Any]:
    """The error that ended a row, and the text before it."""
    so_far = error.generation if isinstance(error, SourceError) else None
    return {"error": str(error), **({} if so_far is None else result_dict(so_far))}


def _record(row: InputRow, result: dict[str, Any]) -> dict[str, Any]:
    return {"id": row.id, "asked": row.digest(), **result, **row.options, **row.others}


def _check_own_keys(rows: Iterable[InputRow]) -> None:
    for row in rows:
        taken = sorted(TAKEN & row.others.keys())
        if taken:
            raise UsageError(
                f'{row.place} has the key "{taken[0]}", which the line of its answer has itself. Keys of '
                "your own are carried along; give it another name."
            )
