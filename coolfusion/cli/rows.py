"""``coolfusion generate --input``: a file of prompts, decoded side by side and resumable."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

from coolfusion.cli import generate, options
from coolfusion.cli.terminal import say
from coolfusion.errors import PromptError, UsageError

if TYPE_CHECKING:
    from coolfusion.fusion import FusionModel
    from coolfusion.recipe import Request
    from coolfusion.tokenizer import Prompt


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of a file; ``id`` is its own or its number."""

    id: str | int
    content: str | list[dict[str, str]]


def run(arguments: argparse.Namespace, request: Request) -> int:
    """Answer every row that the output does not hold yet, and return the exit code."""
    rows = read_rows(arguments.input)
    finished = repair_output(arguments.output) if arguments.output else set()
    todo = [row for row in rows if row.id not in finished]
    file = (
        options.open_for_writing(arguments.output, "a")
        if arguments.output
        else nullcontext(sys.stdout)
    )
    with file as output:
        if not todo:
            say(f"All {len(rows)} rows are finished already.")
            return 0
        fusion = options.load_fusion(arguments)
        bar = options.Progress("rows", sys.stderr)
        num_failed = 0
        for number, record in enumerate(answers(arguments, fusion, todo, request), 1):
            write_row(output, record)
            num_failed += "error" in record
            bar.show(len(rows) - len(todo) + number, len(rows))
        bar.clear()
    if num_failed:
        say(f"{num_failed} of {len(todo)} rows could not be answered; their rows hold an error.")
    return 1 if num_failed else 0


def answers(
    arguments: argparse.Namespace, fusion: FusionModel, todo: list[Row], request: Request
) -> Iterator[dict[str, Any]]:
    """A record for each row, in the order in which they finish; a bad row's holds its error."""
    good: list[tuple[Row, Prompt]] = []
    for row in todo:
        try:
            prompt = _prompt(arguments, fusion, row)
            fusion.decoder.start(prompt, request)
            good.append((row, prompt))
        except PromptError as error:
            yield {"id": row.id, "error": str(error)}
    prompts = [prompt for _, prompt in good]
    for index, generation in fusion.decoder.generate_each(
        prompts, request, max_rows=arguments.batch_size
    ):
        yield {"id": good[index][0].id, **generate.result_dict(generation)}


def read_rows(path: str) -> list[Row]:
    """The rows of a JSON lines file. Raises ``UsageError`` naming the line that is wrong."""
    try:
        lines = Path(path).read_bytes().decode("utf-8").splitlines()
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


def repair_output(path: str) -> set[str | int]:
    """Ids of the finished rows in an output file; a last line cut off in writing is removed."""
    target = Path(path)
    if not target.exists():
        return set()
    data = target.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    finished = set()
    for number, line in enumerate(complete.decode("utf-8", "replace").splitlines(), 1):
        try:
            record = json.loads(line)
            if "error" not in record:
                finished.add(record["id"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f'"{path}" line {number} is not a row of an earlier run. Choose another --output; nothing was changed.'
            ) from None
    if len(complete) < len(data):
        with target.open("r+b") as file:
            file.truncate(len(complete))
    return finished


def write_row(output: IO[str], record: dict[str, Any]) -> None:
    """Write a row whole and at once, so that an interruption loses no finished one."""
    output.write(json.dumps(record, ensure_ascii=False) + "\n")
    output.flush()


def _row(path: str, number: int, line: str) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f'"{path}" line {number + 1} is not JSON: {error}.') from None
    if isinstance(value, str):
        return Row(number, value)
    if isinstance(value, dict):
        content: object = value.get("messages", value.get("prompt"))
        if isinstance(content, str) or _are_messages(content):
            return Row(value.get("id", number), content)
    raise UsageError(
        f'"{path}" line {number + 1} has no prompt. A row is a string, or an object with "prompt" or "messages".'
    )


def _are_messages(content: object) -> TypeGuard[list[dict[str, str]]]:
    return isinstance(content, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in content
    )


def _prompt(arguments: argparse.Namespace, fusion: FusionModel, row: Row) -> Prompt:
    if isinstance(row.content, str):
        return generate.prompt_of(arguments, fusion, row.content)
    return _as_prompt(row.content)


def _as_prompt(messages: Iterable[dict[str, str]]) -> Prompt:
    return [{"role": message["role"], "content": message["content"]} for message in messages]
