"""``coolfusion generate --input``: a file of prompts, decoded side by side and resumable."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from coolfusion.cli import files, options
from coolfusion.cli.progress import ProgressBar
from coolfusion.cli.prompts import prompt_of
from coolfusion.cli.terminal import result_dict, say
from coolfusion.errors import PromptError, UsageError

if TYPE_CHECKING:
    from coolfusion.decoding.request import Request
    from coolfusion.fusion import FusionModel
    from coolfusion.tokenization.prompts import OwnPrompt, Prompt


ROW_START = b'{"id": '


@dataclass(frozen=True, slots=True)
class InputRow:
    """One prompt of a file; ``id`` is its own or its number.

    Sources in ``own`` are given what it says, all others ``content`` (None: there are no others).
    """

    id: str | int
    content: OwnPrompt | None
    own: Mapping[str, OwnPrompt] = field(default_factory=dict)


def run(arguments: argparse.Namespace, request: Request) -> int:
    """Answer every row that the output does not hold yet, and return the exit code."""
    rows = read_rows(arguments.input)
    done = repair_output(arguments.output) if arguments.output else {}
    todo = [row for row in rows if row.id not in done]
    num_failed = sum(done.values())
    with (
        open(arguments.output, "a", encoding="utf-8")
        if arguments.output
        else nullcontext(sys.stdout) as output
    ):
        if todo:
            fusion = options.load_fusion(arguments)
            num_done = len(rows) - len(todo)
            with ProgressBar("rows", "row") as bar:
                bar.show(num_done, len(rows))
                for record in answers(arguments, fusion, todo, request):
                    bar.hide()  # rows may go to the same terminal
                    write_row(output, record)
                    num_failed += "error" in record
                    num_done += 1
                    bar.show(num_done, len(rows))
        else:
            say(f"All {len(rows)} rows are finished already.")
    if num_failed:
        say(
            f"{num_failed} of {len(rows)} rows could not be answered and hold an error; delete their lines to try again."
        )
    return 1 if num_failed else 0


def answers(
    arguments: argparse.Namespace, fusion: FusionModel, todo: list[InputRow], request: Request
) -> Iterator[dict[str, Any]]:
    """A record for each row, in the order in which they finish; a bad row's holds its error."""
    decoder = fusion.decoder_for()
    good: list[tuple[InputRow, Prompt]] = []
    for row in todo:
        try:
            prompt = prompt_of(arguments, fusion, row.content, row.own)
            decoder.start(prompt, request)
            good.append((row, prompt))
        except PromptError as error:
            yield {"id": row.id, "error": str(error)}
    prompts = [prompt for _, prompt in good]
    for index, generation in decoder.generate_each(
        prompts, request, max_rows=arguments.batch_size, max_tokens=arguments.max_batch_tokens
    ):
        yield {"id": good[index][0].id, **result_dict(generation)}


def read_rows(path: str) -> list[InputRow]:
    """The rows of a JSON lines file. Raises ``UsageError`` naming the line that is wrong."""
    try:
        lines = Path(path).read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise UsageError(f'Cannot read "{path}": {error.strerror}.') from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f'"{path}" is not UTF-8 at byte {error.start}. Convert it first.'
        ) from None
    rows = [_row(path, number, line) for number, line in enumerate(lines) if line.strip()]
    ids = [row.id for row in rows]
    if len(set(ids)) != len(ids):
        repeated = next(entry for entry in ids if ids.count(entry) > 1)
        raise UsageError(
            f'"{path}" has several rows with the id {repeated!r}. Ids tell rows apart on resuming.'
        )
    return rows


def repair_output(path: str) -> dict[str | int, bool]:
    """Ids of the rows an output file holds, each with whether it is an error.

    A last line that was cut off in writing is removed. Raises ``UsageError`` for a file that
    no earlier run can have written, and leaves it as it is.
    """
    files.check_writable(path)
    target = Path(path)
    data = target.read_bytes() if target.exists() else b""
    complete, torn = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
    done = {}
    for number, line in enumerate(complete.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            done[_checked_id(record["id"])] = "error" in record
        except (ValueError, KeyError, TypeError):
            raise _foreign(path, number) from None
    if torn:
        if not (torn.startswith(ROW_START) or ROW_START.startswith(torn)):
            raise _foreign(path, len(done) + 1)
        with target.open("r+b") as file:
            file.truncate(len(complete))
    return done


def _foreign(path: str, number: int) -> UsageError:
    return UsageError(
        f'"{path}" line {number} is not a row of an earlier run. Choose another --output; nothing was changed.'
    )


def _checked_id(value: Any) -> str | int:
    if not isinstance(value, (str, int)):
        raise TypeError(f"a row's id must be text or a whole number, not {value!r}")
    return value


def write_row(output: IO[str], record: dict[str, Any]) -> None:
    """Write a row whole and at once, so that an interruption loses no finished one."""
    output.write(json.dumps(record, ensure_ascii=False) + "\n")
    output.flush()


def _row(path: str, number: int, line: str) -> InputRow:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f'"{path}" line {number + 1} is not JSON: {error}.') from None
    if isinstance(value, str):
        return InputRow(number, value)
    row_id = value.get("id", number) if isinstance(value, dict) else None
    own = value.get("prompts", {}) if isinstance(value, dict) else None
    if isinstance(row_id, (str, int)) and isinstance(own, dict):
        prompt, messages = value.get("prompt"), value.get("messages")
        common = [each for each in (prompt, messages) if each is not None]
        given = [*common, *own.values()]
        is_as_named = not isinstance(prompt, list) and not isinstance(messages, str)
        if given and len(common) < 2 and is_as_named and all(map(_is_prompt, given)):
            return InputRow(row_id, next(iter(common), None), own)
    raise UsageError(
        f'"{path}" line {number + 1} is no row. A row is a string, or an object with "prompt" or '
        '"messages" and, if wanted, "prompts" that map names of sources to texts or messages of '
        'their own, and an "id" of text or a whole number.'
    )


def _is_prompt(content: object) -> bool:
    return isinstance(content, str) or (
        isinstance(content, list)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in content
        )
    )
