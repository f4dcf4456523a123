"""Importing the package is quick and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

TIMED = """
import sys, time
before = time.perf_counter()
import {module}
seconds = time.perf_counter() - before
heavy = [name for name in {heavy!r} if name in sys.modules]
print(seconds, *heavy)
"""


def measure(module: str, heavy: tuple[str, ...]) -> tuple[float, list[str]]:
    code = TIMED.format(module=module, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.split()
    return float(seconds), loaded


def test_import_coolfusion() -> None:
    runs = [
        measure("coolfusion", ("torch", "transformers", "numpy", "tokenizers")) for _ in range(5)
    ]
    assert runs[0][1] == []
    assert min(seconds for seconds, _ in runs) < 0.150


@pytest.mark.parametrize(
    "module",
    [
        "coolfusion.fusion",
        "coolfusion.decoding.segments.decoder",
        "coolfusion.testing",
        "coolfusion.cli",
    ],
)
def test_nothing_but_a_model_needs_torch(module: str) -> None:
    heavy = ("torch", "transformers", "pytest", "hypothesis")
    assert measure(module, heavy)[1] == []
