"""Pickle and copy: values come back equal, and what holds models is refused with what to do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from coolfusion import FusionModel, Recipe, Request, Sampling
from coolfusion.config.options import FusionConfig
from coolfusion.decoding.mixture.options import Mixture
from coolfusion.errors import BatchError, CoolfusionError, SourceError, UncopyableError
from coolfusion.evaluation import EvaluationPlan, make_task, metric_named
from coolfusion.merging import Merge
from coolfusion.swarm import SwarmPlan
from coolfusion.testing import ConformanceError, toy_source
from coolfusion.tuning import TuningPlan

TEXTS = ["Tom has 3 apples.", "Ann has 5 pears."]


@pytest.fixture(scope="module")
def fusion() -> FusionModel:
    return FusionModel([toy_source("a", TEXTS), toy_source("b", TEXTS[::-1])])


def test_values_come_back_equal(fusion: FusionModel) -> None:
    generation = fusion.generate("Tom", max_new_tokens=4)
    values = [
        *(generation, generation.steps[0], fusion.decoder.start("Tom"), Request(), Sampling(0.5)),
        *(Recipe(), FusionConfig(names=("a",)), Mixture(), EvaluationPlan(), TuningPlan()),
        *(SwarmPlan(), Merge("linear", ("a", "b")), metric_named("contains")),
        make_task("t", [{"prompt": "a", "reference": "b"}]),
    ]
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.deepcopy(value) == value


def test_what_holds_models_says_what_to_do(fusion: FusionModel) -> None:
    for each in (fusion, fusion.decoder, fusion.mixture, fusion.sources[0]):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(UncopyableError, match="in each process") as caught:
                way(each)
            assert type(each).__name__ in str(caught.value)
            assert isinstance(caught.value, TypeError)


def kinds(of: type[CoolfusionError]) -> Iterator[type[CoolfusionError]]:
    """All exceptions of the package."""
    yield of
    for each in of.__subclasses__():
        yield from kinds(each)


ARGUMENTS: dict[type, tuple[Any, ...]] = {
    ConformanceError: ("law", "text"),
    BatchError: ({1: SourceError("text")}, {0: "text"}),
}


def test_exceptions_come_back_from_another_process() -> None:
    found = [each for each in kinds(CoolfusionError) if each.__module__.startswith("coolfusion")]
    assert len(found) > 10
    for each in found:
        error = each(*ARGUMENTS.get(each, ("text",)))
        error.__dict__["generation"] = None
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), back.args) == (each, str(error), error.args)
