"""The worker of ``processes``: reads points and writes evaluations, as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from coolfusion.documents import json_text
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.merging.merged import open_recipe
from coolfusion.merging.recipe_file import recipe_from
from coolfusion.swarm.evaluator import OneByOne
from coolfusion.swarm.log import evaluation_dict
from coolfusion.swarm.utility import utility_from


def serve(lines: Iterable[str], answers: IO[str]) -> None:
    """Evaluate the point of every line; the first line has the experts and the utility instead."""
    evaluator: OneByOne | None = None
    for line in lines:
        question = json.loads(line)
        try:
            if "recipe" in question:
                evaluator = _evaluator(question)
                continue
            if evaluator is None:
                raise UsageError(
                    "A point came before anything else. The first line must have the experts and the utility."
                )
            answer = evaluation_dict(evaluator.evaluate_one(tuple(question["point"])))
        except (CoolfusionError, OSError) as error:
            answer = {"error": str(error), "is_usage": isinstance(error, UsageError)}
        answers.write(json_text(answer) + "\n")
        answers.flush()


def _evaluator(given: dict[str, Any]) -> OneByOne:
    return OneByOne(
        open_recipe(recipe_from(given["recipe"])),
        utility_from(given["utility"]),
        Path(given["scratch"]),
        given["device"],
    )


def main() -> None:
    """Serve standard input. Everything else that is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, answers)
        answers.close()
    except BrokenPipeError:
        # The search is gone. Closing at exit would fail on the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())


if __name__ == "__main__":
    main()
