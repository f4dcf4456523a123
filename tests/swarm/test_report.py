"""What a search's report looks like to the letter, as Markdown and as data."""

from __future__ import annotations

import json
import math
from pathlib import Path

from coolfusion.search import Coefficients, Evaluated
from coolfusion.swarm import Iteration, Result, SwarmPlan, SwarmTrial
from coolfusion.swarm.log import Evaluation
from coolfusion.swarm.report import as_dict, as_markdown

BEST = Evaluation((0.25, 0.75), 0.5, (0.25, 0.75), None, 2.5)
RESULT = Result(
    checkpoint=Path("some/where/best"),
    experts=("a|b", "c"),
    measures=("last_number sums|more", "tests:near"),
    best=BEST,
    alone=(
        Evaluation((1, 0), -math.inf, (), "it has no |utility|.", 1.0),
        Evaluation((0, 1), 0.25, (0.25, 0.25), None, 1.5),
    ),
    trials=(
        SwarmTrial(
            Coefficients(),
            (Iteration((-math.inf, 0.25), 0.25, 0), Iteration((0.5, 0.125), 0.5, 1)),
            Evaluated((0.25, 0.75), 0.5),
            "iterations",
        ),
        SwarmTrial(
            Coefficients(inertia=0.3),
            (Iteration((-math.inf, 0.25), 0.25, 0), Iteration((-math.inf, -math.inf), 0.25, 0)),
            Evaluated((0, 1), 0.25),
            "patience",
        ),
    ),
    plan=SwarmPlan(num_particles=2, trials=2, seed=7),
    num_evaluations=4,
    num_failed=1,
    num_new=3,
    seconds=6.0,
)
MARKDOWN = """# Model Swarms: last_number sums|more, tests:near

Best utility 0.5000; best expert 0.2500 (c).

![The search](search.svg)

This is the largest of 4 values on the same examples, so it is more than the particle will reach on others. Measure `best` beside the experts on rows that the search has not seen.

## The experts and their shares

| expert | share in the best | utility alone | last_number sums\\|more | tests:near |
| --- | --- | --- | --- | --- |
| a\\|b | +0.2500 | does not work |  |  |
| c | +0.7500 | 0.2500 | 0.2500 | 0.2500 |

The utility is the harmonic mean. The best: last_number sums|more 0.2500, tests:near 0.7500.

## The search

- 2 particles; iterations: 1 (all iterations were made), seed 7
- inertia 0.2, cognitive 0.3, social 0.4, repel 0.05; step length 0.8, times 0.95 each iteration, at least 0.1
- patience 10, restart after 5 iterations, crossover up to 1
- 4 evaluations of 1.50 s; 1 did not work
- at the start: best 0.2500, worst does not work

## Trials

| trial | inertia | cognitive | social | repel | step length | iterations | best |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | 0.2 | 0.3 | 0.4 | 0.05 | 0.8 | 1 | 0.5000 (best) |
| 2 | 0.3 | 0.3 | 0.4 | 0.05 | 0.8 | 1 | 0.2500 |

## Iterations of the best trial

| iteration | best so far | highest | mean | lowest | restarted |
| --- | --- | --- | --- | --- | --- |
| 0 | 0.2500 | 0.2500 | 0.2500 | does not work | 0 |
| 1 | 0.5000 | 0.5000 | 0.3125 | 0.1250 | 1 |
"""


def test_as_markdown() -> None:
    assert as_markdown(RESULT) == MARKDOWN


def test_as_data() -> None:
    data = as_dict(RESULT)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == [
        *("checkpoint", "experts", "measures", "best", "alone", "trials", "plan"),
        *("num_evaluations", "num_failed", "num_new", "seconds"),
    ]
    assert data["checkpoint"] == "best"
    assert data["best"] == {
        "point": [0.25, 0.75],
        "utility": 0.5,
        "parts": [0.25, 0.75],
        "failure": None,
        "seconds": 2.5,
    }
    assert data["alone"][0]["utility"] == "-inf"
    assert data["trials"][0]["iterations"][0] == {
        "utilities": ["-inf", 0.25],
        "best": 0.25,
        "num_restarted": 0,
    }
    assert data["plan"]["seed"] == 7
