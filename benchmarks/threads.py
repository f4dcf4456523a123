"""Do threads help on one CPU: sources that answer at the same time, and torch's own threads?

Bad news would be a way of using two cores that the defaults leave lying. Wall time, so nothing
else may run beside it; the ways take turns and the median of their times counts.

    python -m benchmarks.threads [--large 50000000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

from benchmarks._results import finish, table
from benchmarks.grown import grown
from benchmarks.word_problems import generate
from coolfusion.builtin import builtin_paths
from coolfusion.decoder import Decoder
from coolfusion.recipe import Request
from coolfusion.rounds import Rounds
from coolfusion.sources import Source

REQUEST = Request(max_new_tokens=120)


def seconds(
    sources: Sequence[Source], chats: Sequence[Any], rows: int, *, concurrent: bool
) -> float:
    """Wall time of answering ``chats``, ``rows`` side by side."""
    decoder = Decoder(sources)
    rounds = mock.patch.object(
        Decoder, "rounds", lambda self: Rounds(self._recalls, concurrent=concurrent)
    )
    with rounds:
        decoder.generate(chats[0], REQUEST)
        begun = time.perf_counter()
        decoder.generate_batch(chats, REQUEST, max_rows=rows)
        return time.perf_counter() - begun


def measure(paths: Sequence[Path], size: int, num_chats: int, repeats: int) -> list[list[str]]:
    """Rows of the table for one size of source: each way relative to one thread, one by one."""
    sources = [grown(path, size) for path in paths]
    problems = generate(num_chats, seed=5, split="test")
    chats = [[{"role": "user", "content": problem.question}] for problem in problems]
    ways = [(t, c, r) for r in (1, 32) for t in (1, 2) for c in (False, True)]
    times: dict[tuple[int, bool, int], list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for threads, concurrent, rows in ways:
            torch.set_num_threads(threads)
            spent = seconds(sources, chats, rows, concurrent=concurrent)
            times[threads, concurrent, rows].append(spent)
    first = statistics.median(times[1, False, 1])
    name = f"{size // 1_000_000}M" if size else "built-in"
    return [
        [name, str(r), str(t), "yes" if c else "no", f"{first / statistics.median(spent):.2f}"]
        for (t, c, r), spent in times.items()
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="What threads are good for.")
    parser.add_argument("--large", type=int, default=50_000_000)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    pair = builtin_paths()[:2]
    rows = measure(pair, 0, 32, 3) + measure(pair, options.large, 4, 2)
    header = ["two sources", "rows side by side", "torch threads", "sources in threads", "speed"]
    heading = (
        "Responses per second relative to one by one, one thread, sources in turn (wall time)\n\n"
    )
    finish("threads", {"rows": rows}, heading + table(header, rows))


if __name__ == "__main__":
    main()
