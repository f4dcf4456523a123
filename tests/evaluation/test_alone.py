"""A system costs in company what it costs alone, whatever ran before it."""

from __future__ import annotations

import itertools

import pytest

from coolfusion import SegmentDecoder, Source
from coolfusion.backends.base import Query, forget
from coolfusion.backends.huggingface import load_source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.request import Request
from coolfusion.evaluation import EvaluationPlan, Record, evaluate, make_task

SHARED = "Ann has 5 pears. She eats 2. Now she has 3.\n"  # as the examples of few-shot prompts
TASK = make_task(
    "left",
    [
        {"prompt": SHARED + "Mia has 14 plums. She eats 5. Now she has", "reference": 9},
        {"prompt": SHARED + "Tom has 8 pens. He buys 2. Now he has", "reference": 10},
        {"prompt": "Eva has 3 hens.", "reference": 3},
    ],
)
PLANS = [("rerank",), ("cool_r",), ("mixture",), ("majority", "fusion")]


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [load_source(path, path.name) for path in builtin_paths()[:2]]


def costs(
    sources: list[Source], systems: tuple[str, ...], num_samples: int | None = None
) -> dict[tuple[str, str | int], float]:
    """Tokens computed by (system, row). Without guesses, since how long they are follows the clock."""
    record = Record()
    evaluate(
        SegmentDecoder(sources, speculation=None),
        TASK,
        metric="last_number",
        request=Request(max_new_tokens=12),
        plan=EvaluationPlan(systems, num_samples=num_samples, batch_size=2),
        record=record,
    )
    return {key: outcome.total_forwarded for key, outcome in record.outcomes.items()}


def test_the_others_change_no_cost(sources: list[Source]) -> None:
    together = costs(sources, tuple(itertools.chain(*reversed(PLANS))))
    for systems in PLANS:
        alone = costs(sources, systems)
        assert alone == {key: together[key] for key in alone}
        assert {*systems} - {"majority"} <= {system for system, _ in alone}


def test_a_run_before_changes_no_cost(sources: list[Source]) -> None:
    first = costs(sources, ("majority", "fusion"))
    assert costs(sources, ("majority", "fusion")) == first
    assert sum(first["fusion", row.id] for row in TASK.rows) > sum(
        first[source.name, row.id] for source in sources for row in TASK.rows
    )


def test_what_is_forgotten_costs_what_it_cost_first(sources: list[Source]) -> None:
    for source in sources:
        query = Query(tuple(source.tokenizer.encode_prompt(SHARED)))
        forget(source.backend)
        first, again = (source.backend.score([query])[0] for _ in range(2))
        forget(source.backend)
        assert again.num_forwarded < first.num_forwarded == len(query.prefix)
        assert source.backend.score([query])[0] == first
