"""The gap in which the tolerance of a trial lies, on real models and on every architecture.

The table in docs/inside/models.md is printed by
`python -m tests.backends.huggingface.test_real_trials`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from coolfusion.backends.huggingface import choosing, load_source
from coolfusion.backends.huggingface.loading import _ordinary
from coolfusion.backends.huggingface.probing import num_ids
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
    assert right < sample.tolerance / 2
    assert broken > sample.tolerance


def random_gaps(dtype: str) -> Iterator[tuple[float, float]]:
    """Those of all small random models that are packed in single precision."""
    for kind in set(KINDS) - set(NOT_BUILT):
        model = build(kind)
        size = num_ids(model)
        try:
            if choosing.choose(model, size, ()).kind == PACKED:
                yield gap(Sample.of(model.to(getattr(torch, dtype)), size, (), None))
        except Exception:  # some need widths of a multiple of 16 in half precision
            continue


def print_gaps() -> None:
    """The rows of the table."""
    for dtype in DTYPES:
        tolerance = (torch.finfo(getattr(torch, dtype)).eps / 4) ** 0.5
        gaps = list(random_gaps(dtype))
        rows = {
            f"{len(gaps)} random architectures": (max(r for r, _ in gaps), min(b for _, b in gaps))
        }
        rows |= {name: gap(real_sample(name, dtype)) for name in MODELS if dtype in MODELS[name]}
        for name, (right, broken) in rows.items():
            print(f"| {dtype} | {name} | {right:.1e} | {tolerance:.1e} | {broken:.1e} |")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    print_gaps()
