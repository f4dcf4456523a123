"""Parallel evaluations: a process for each device, which reads and writes JSON lines.

A process ends when its standard input does. So none outlives a killed search by more than its
current evaluation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, final

from coolfusion.documents import json_text
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.merging.merge_recipe import recipe_dict
from coolfusion.search import Point
from coolfusion.swarm.experts import Experts
from coolfusion.swarm.log import Evaluation, evaluation_from
from coolfusion.swarm.utility import Utility, utility_dict

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


@final
class SideBySide:
    """Evaluates in one process for each of ``devices``; a device listed twice has two."""

    def __init__(
        self, experts: Experts, utility: Utility, scratch: Path, devices: Sequence[str | None]
    ) -> None:
        even = (1.0,) * len(experts.models)
        self._begin = {
            "recipe": recipe_dict(experts.recipe(even)),
            "utility": utility_dict(utility),
            "scratch": str(scratch),
            "path": [entry or os.getcwd() for entry in sys.path],
        }
        self._devices = tuple(devices)
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._processes: list[_Process] = []

    def __enter__(self) -> SideBySide:
        for device in self._devices:
            process = _Process({**self._begin, "device": device})
            self._processes.append(process)
            self._idle.put(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.end()

    def evaluate(self, points: Sequence[Point]) -> Iterator[Evaluation]:
        """Evaluate as many points at once as there are processes."""
        threads = ThreadPoolExecutor(len(self._processes))
        try:
            under_way = [threads.submit(self._evaluate, point) for point in points]
            for future in as_completed(under_way):
                yield future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in self._processes:
                process.end()
            raise
        finally:
            threads.shutdown()

    def _evaluate(self, point: Point) -> Evaluation:
        process = self._idle.get()
        try:
            return evaluation_from(process.ask({"point": point}))
        finally:
            self._idle.put(process)


class _Process:
    def __init__(self, begin: Mapping[str, Any]) -> None:
        self._device = begin["device"] or "the default device"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coolfusion.swarm.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**QUIET, **os.environ, "PYTHONPATH": os.pathsep.join(begin["path"])},
            start_new_session=True,  # Ctrl-C must reach only the search, which handles it
        )
        self._send(begin)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question. Raises the error of the process, if there was one."""
        self._send(question)
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise self._gone()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = UsageError if answer["is_usage"] else CoolfusionError
            raise kind(answer["error"])
        return answer

    def end(self) -> None:
        """Kill the process, even during an evaluation."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # unsent data is not needed any more

    def _send(self, data: Mapping[str, Any]) -> None:
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(json_text(data) + "\n")
                self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def _gone(self) -> CoolfusionError:
        return CoolfusionError(
            f"The process that evaluates on {self._device} has ended (exit code {self._process.wait()}); its output "
            "stands above. Finished evaluations are kept; run again, with fewer devices if memory ran out."
        )
