"""Shared by the benchmarks: intervals, the environment line, and writing a result down."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from coolfusion.evaluation.tables import markdown_table

RESULTS = Path(__file__).parent / "results"


def wilson(num_right: int, num: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    share = num_right / num
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return middle - half, middle + half


def with_interval(num_right: int, num: int) -> str:
    """A share with its interval, as a table cell."""
    low, high = wilson(num_right, num)
    return f"{num_right / num:.2f} ({low:.2f}-{high:.2f})"


def environment() -> dict[str, Any]:
    """What a number was measured on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of anything that can be written."""
    return "\n".join(
        markdown_table(header, [[str(cell) for cell in row] for row in rows], is_markdown=True)
    )


def finish(name: str, record: Mapping[str, Any], tables: str) -> None:
    """Print the tables and one JSON line, and keep both in the results folder."""
    line = json.dumps(
        {"benchmark": name, **record, "environment": environment()}, ensure_ascii=False
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(line + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(tables + "\n", encoding="utf-8")
    print(tables)
    print(line)
