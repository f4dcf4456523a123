"""Where does a product of few positions gain by standing the other way round?

The rule in `coolfusion/backends/huggingface/products.py` is a rule of sizes, and this is what it
rests on. Both ways take turns on weights that lie in no cache. One thread, CPU time.

    python -m benchmarks.few_positions [--count 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from benchmarks._results import finish, table
from coolfusion.backends.huggingface.products import from_the_left, gains

SHAPES = ((262144, 640), (49152, 576), (2048, 640), (1536, 576), (2048, 2048), (640, 2048))
POSITIONS = (1, 2, 3, 4, 6, 8, 12)
UNCACHED = 50_000_000  # numbers in all weights that take turns, far more than a cache holds

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def seconds(product: Product, inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> float:
    """CPU time of one product with each of the weights."""
    begun = time.process_time()
    for weight in weights:
        product(inputs, weight)
    return time.process_time() - begun


def ratios_of(shape: tuple[int, int], count: int) -> list[float]:
    """Time with the weight on the left over that of ``linear``, for all numbers of positions.

    Each is the median over ``count`` turns.
    """
    weights = [torch.rand(shape) for _ in range(max(1, UNCACHED // (shape[0] * shape[1])))]
    medians = []
    for num_positions in POSITIONS:
        inputs = torch.rand(1, num_positions, shape[1])
        with torch.inference_mode():
            turns = [
                seconds(from_the_left, inputs, weights)
                / seconds(functional.linear, inputs, weights)
                for _ in range(count)
            ]
        medians.append(statistics.median(turns))
    return medians


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all shapes, and mark where the rule takes the weight to the left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=7, help="turns of each pair")
    count = parser.parse_args(arguments).count
    torch.set_num_threads(1)
    found = {shape: ratios_of(shape, count) for shape in SHAPES}
    rows = []
    for shape, ratios in found.items():
        weight = torch.empty(shape)
        cells = [
            f"**{each:.2f}**" if gains(weight, num) else f"{each:.2f}"
            for num, each in zip(POSITIONS, ratios, strict=True)
        ]
        rows.append([f"{shape[0]} x {shape[1]}", *cells])
    finish(
        "few_positions",
        {
            "count": count,
            "positions": POSITIONS,
            "ratios": {f"{a}x{b}": each for (a, b), each in found.items()},
        },
        table(["weight", *(f"{num} positions" for num in POSITIONS)], rows),
    )


if __name__ == "__main__":
    main()
