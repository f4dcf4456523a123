"""Importing the package loads nothing heavy, and at first nothing but its list of names."""

from __future__ import annotations

import subprocess
import sys

import pytest

LISTED = """
import sys
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before))
"""


def loaded(module: str) -> list[str]:
    """The modules that importing one brings in, in a process of its own."""
    code = LISTED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_coolfusion() -> None:
    """The names it lists are imported when they are first used."""
    modules = loaded("coolfusion")
    assert [name for name in modules if name.startswith("coolfusion")] == ["coolfusion"]
    packages = {name.split(".")[0] for name in modules} - {"coolfusion"}
    assert packages - set(sys.stdlib_module_names) == set()


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
    heavy = {"torch", "transformers", "pytest", "hypothesis"}
    assert heavy & set(loaded(module)) == set()
