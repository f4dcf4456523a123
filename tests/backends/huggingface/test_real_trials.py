"""The gap in which the tolerance of a trial lies, on real models and on every architecture.

The table in docs/inside/models.md is printed by
`python -m tests.backends.huggingface.test_real_trials`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import transformers

from coolfusion.backends.huggingface import load_source
from coolfusion.backends.huggingface.loading import _ordinary
from coolfusion.backends.huggingface.probing import GROSS, num_ids
from coolfusion.backends.huggingface.trials import PACKED, Sample
from tests.architectures import KINDS, NOT_BUILT, build
from tests.broken_passes import BROKEN, broken_passes, error_of

FOLDER = os.environ.get("COOLFUSION_PAIR")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="COOLFUSION_PAIR names no folder")

DTYPES = ("float32", "bfloat16", "float16")
MODELS = {"smollm2-135m-instruct": DTYPES, "gemma-3-270m": DTYPES[:2]}  # Gemma overflows float16
WITHIN = [name for name in BROKEN if name != "a window is ignored"]  # the texts end before it


def real_sample(name: str, dtype: str) -> Sample:
    source = load_source(Path(FOLDER or ".") / name, name, dtype=dtype)
    model = source.backend._model
    return Sample.of(model, num_ids(model), _ordinary(source.tokenizer), None)


def gap(sample: Sample) -> tuple[float, float]:
    """The error of packed passes, and the least of those that are broken."""
    return error_of(sample), min(error_of(sample, broken_passes(name)) for name in WITHIN)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, each) for name in MODELS for each in MODELS[name]]
)
def test_the_tolerance_lies_between_right_and_broken_passes(name: str, dtype: str) -> None:
    sample = real_sample(name, dtype)
    right, broken = gap(sample)
    assert right < sample.tolerance / 1.5
    assert broken > sample.tolerance


def random_gaps() -> dict[str, list[tuple[float, float]]]:
    """By type, those of all small random models that are packed in single precision."""
    gaps: dict[str, list[tuple[float, float]]] = {dtype: [] for dtype in DTYPES}
    for kind in sorted(set(KINDS) - set(NOT_BUILT)):
        model = build(kind)
        for dtype in DTYPES:
            try:
                model = model.to(getattr(torch, dtype))
                sample = Sample.of(model, num_ids(model), (), None)
                if dtype == "float32" and not sample.agrees(PACKED):
                    break
                gaps[dtype].append(gap(sample))
            except Exception:
                break  # it looks ahead, or needs widths of a multiple of 16 in half precision
    return gaps


def print_gaps() -> None:
    """The rows of the table."""
    for dtype, some in random_gaps().items():
        rows = {f"{len(some)} random architectures": some}
        rows |= {each: [gap(real_sample(each, dtype))] for each in MODELS if dtype in MODELS[each]}
        tolerance = math.sqrt(torch.finfo(getattr(torch, dtype)).eps * GROSS)
        for name, gaps in rows.items():
            right, broken = max(r for r, _ in gaps), min(b for _, b in gaps)
            print(
                f"| {dtype} | {name} | {right:.1e} | {tolerance:.1e} | {broken:.1e} |", flush=True
            )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    print_gaps()
