"""Measures: what they say of a particle, what they pass on, and how several become one number."""

from __future__ import annotations

import gc
import json
import math
import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coolfusion.builtin import builtin_paths
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.evaluation import EvaluationPlan, evaluate, make_task
from coolfusion.fusion import FusionModel, request
from coolfusion.swarm import (
    Answering,
    BrokenParticleError,
    FunctionMeasure,
    HarnessMeasure,
    Loading,
    Particle,
    TaskMeasure,
    Utility,
    harmonic_mean,
)
from coolfusion.swarm.measures import falling
from coolfusion.swarm.utility import utility_dict, utility_from

QUESTION = "Question: Tom has {} apples and buys {} more. How many apples does Tom have?\nAnswer:"
ROWS = [{"prompt": QUESTION.format(a, b), "reference": a + b} for a, b in ((3, 2), (5, 4), (6, 9))]
TASK = make_task("sums", ROWS)
SHORT = Answering(40, ("\n",), raw=True)
HERE = "tests.swarm.test_utility:"


@pytest.fixture(scope="module")
def particle() -> Particle:
    return Particle(builtin_paths()[0], "cpu", Loading())


def number(folder: Path, device: str | None) -> Any:
    """A utility that says what its folder is called."""
    if folder.name == "raise":
        raise ValueError("a reason")
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "text": "good"}.get(folder.name, 3)


# One measure.


@pytest.mark.parametrize("metric", ["last_number", "perplexity"])
def test_a_task_gives_what_eval_gives(particle: Particle, metric: str) -> None:
    report = evaluate(
        FusionModel.from_pretrained(builtin_paths()[:1], device="cpu").decoder,
        TASK,
        metric=metric,
        request=request(max_new_tokens=40, stop="\n"),
        plan=EvaluationPlan(systems=()),
    )
    mean = report.results[0].mean
    got = TaskMeasure(TASK, metric, SHORT).value(particle)
    assert got == pytest.approx(mean if metric == "last_number" else 1 / (1 + mean))
    assert 0 < got <= 1


def test_prompts_are_chats_where_there_is_a_template(particle: Particle) -> None:
    row = TASK.rows[0]
    model = particle.model
    assert Answering().prompt_of(model, row) == [{"role": "user", "content": row.prompt}]
    roles = [m["role"] for m in Answering(system="Be brief.").prompt_of(model, row)]  # type: ignore[index]
    assert roles == ["system", "user"]
    assert Answering(raw=True).prompt_of(model, row) == row.prompt
    chat = make_task("x", [{"messages": [{"role": "user", "content": "?"}], "reference": "a"}])
    assert Answering(system="x").prompt_of(model, chat.rows[0]) == chat.rows[0].prompt


def test_a_metric_that_fails_stops_the_search(particle: Particle) -> None:
    measure = TaskMeasure(make_task("x", [{**ROWS[0], "reference": "none"}]), "last_number", SHORT)
    with pytest.raises(CoolfusionError, match="holds no number"):
        measure.value(particle)


def test_a_row_that_cannot_be_asked_stops_the_search(particle: Particle) -> None:
    long = make_task("x", [{"prompt": "apples " * 600, "reference": 1}])
    for metric in ("last_number", "perplexity"):
        with pytest.raises(CoolfusionError, match="512") as caught:
            TaskMeasure(long, metric, SHORT).value(particle)
        assert not isinstance(caught.value, BrokenParticleError)


def test_a_model_that_gives_nan_is_a_broken_particle(tmp_path: Path) -> None:
    base = builtin_paths()[0]
    shutil.copytree(base, tmp_path / "x")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] *= torch.nan
    save_file(tensors, tmp_path / "x" / "model.safetensors", {"format": "pt"})
    broken = Particle(tmp_path / "x", "cpu", Loading())
    for metric in ("last_number", "perplexity"):
        with pytest.raises(BrokenParticleError, match=r"model.norm.weight hold .* NaN"):
            TaskMeasure(TASK, metric, SHORT).value(broken)


@dataclass(frozen=True)
class Watching:
    """A measure that keeps an eye on the model, and no hand."""

    name: str = "watching"
    seen: list[weakref.ref[Any]] = field(default_factory=list)

    def value(self, particle: Particle) -> float:
        (source,) = particle.model.sources
        self.seen.append(weakref.ref(source.backend))
        return 1.0

    def identity(self) -> dict[str, Any]:
        return {}


def test_a_model_is_let_go_when_it_has_been_measured(particle: Particle) -> None:
    """With all it remembers: the garbage collector might not come for long."""
    watching = Watching()
    gc.disable()
    try:
        assert Utility((watching, watching)).parts(particle.folder, None) == (1.0, 1.0)
        first, second = watching.seen
        assert first is second
        assert first() is None
    finally:
        gc.enable()


def test_functions() -> None:
    measure = FunctionMeasure(HERE + "number")
    assert measure.value(Particle(Path("x"), None, Loading())) == 3.0
    for name, kind, message in (
        ("nan", CoolfusionError, "gave nan"),
        ("inf", CoolfusionError, "gave inf"),
        ("text", CoolfusionError, "gave 'good'"),
        ("raise", CoolfusionError, "ValueError: a reason"),
        ("-inf", BrokenParticleError, "minus infinity"),
    ):
        with pytest.raises(kind, match=message):
            measure.value(Particle(Path(name), None, Loading()))
    for wrong in ("x", "none:number", HERE + "none", HERE + "TASK"):
        with pytest.raises(UsageError, match="The utility"):
            FunctionMeasure(wrong)


def test_wrong_tasks() -> None:
    many = make_task("many", [{"prompt": "x", "reference": "y"}] * 201)
    with pytest.raises(UsageError, match="has 201 rows"):
        TaskMeasure(many)
    with pytest.raises(UsageError, match='no metric "best"'):
        TaskMeasure(TASK, "best")
    with pytest.raises(UsageError, match="at least one measure"):
        Utility(())


def test_a_missing_harness_is_named(particle: Particle) -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match=r"pip install \"coolfusion\[harness\]\""):
            HarnessMeasure("arc").value(particle)


def test_sums_of_the_harness() -> None:
    pytest.importorskip("lm_eval")
    from coolfusion.swarm.harness_score import summed_up

    results = {
        "results": {
            "a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": "N/A", "acc_norm,none": 0.25},
            "b": {"alias": "b", "acc,none": 1.0, "acc_stderr,none": 0.1, "acc_norm,none": 0.75},
            "group": {"alias": "group"},
        },
        "higher_is_better": {
            "a": {"acc": True, "acc_norm": True},
            "b": {"acc": True, "acc_norm": True},
            "group": {"acc": True},
        },
        "n-samples": {"a": {}, "b": {}},
    }
    assert summed_up(results, None) == (0.75, True)
    assert summed_up(results, "acc_norm") == (0.5, True)
    with pytest.raises(UsageError, match='no metric "f1"'):
        summed_up(results, "f1")


def test_a_task_of_the_harness(particle: Particle, tmp_path: Path) -> None:
    """Choosing between two numbers, as many as the model gets right; and bits of a text."""
    pytest.importorskip("lm_eval")
    choice = {"question": ROWS[0]["prompt"], "label": 0}
    (tmp_path / "rows.json").write_text(json.dumps(choice) + "\n")
    files = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}},
    }
    shared = {**files, "test_split": "test", "doc_to_text": "{{question}}"}
    kinds = {
        "choosing": {
            "output_type": "multiple_choice",
            "doc_to_choice": ["Tom has 3 + 2 = 5 apples.", "zzz qqq vvv"],
            "doc_to_target": "{{label}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
        "reading": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{question}}",
            "metric_list": [
                {
                    "metric": "bits_per_byte",
                    "aggregation": "bits_per_byte",
                    "higher_is_better": False,
                }
            ],
        },
    }
    for name, kind in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name, **shared, **kind}))
    for name, low in (("choosing", 1.0), ("reading", 0.1)):
        measure = HarnessMeasure(name, limit=5, include_path=str(tmp_path), answering=SHORT)
        assert low <= measure.value(particle) <= 1
    with pytest.raises(UsageError, match='no metric "f1"'):
        HarnessMeasure("choosing", "f1", 5, str(tmp_path), SHORT).value(particle)
    with pytest.raises(UsageError, match='no task "none"'):
        HarnessMeasure("none", None, 5, str(tmp_path), SHORT).value(particle)


# Several.


def test_harmonic_means_by_hand() -> None:
    assert harmonic_mean([0.5]) == 0.5
    assert harmonic_mean([-3.0]) == -3.0
    assert harmonic_mean([0.5, 0.25]) == pytest.approx(1 / 3)
    assert harmonic_mean([1.0, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert harmonic_mean([1.0, 0.0]) == 0
    with pytest.raises(CoolfusionError, match="below 0"):
        harmonic_mean([1.0, -1.0])


def test_falling_metrics_by_hand() -> None:
    assert [falling("x", value) for value in (0.0, 1.0, 3.0)] == [1.0, 0.5, 0.25]
    for wrong in (-0.5, math.nan):
        with pytest.raises(CoolfusionError, match="0 or above"):
            falling("x", wrong)


def test_a_utility_survives_the_way_to_another_process() -> None:
    chat = make_task("x", [{"messages": [{"role": "user", "content": "?"}], "reference": ["a", 1]}])
    utility = Utility(
        (
            TaskMeasure(TASK, "last_number", SHORT),
            TaskMeasure(chat),
            HarnessMeasure("arc", "acc", 5),
            FunctionMeasure(HERE + "number"),
        ),
        Loading("bfloat16", trust_remote_code=True),
    )
    assert utility_from(json.loads(json.dumps(utility_dict(utility)))) == utility
    assert len(utility.names) == 4


def test_an_identity_changes_with_the_rows_and_not_with_the_batch() -> None:
    def identity(rows: list[dict[str, Any]], **how: Any) -> object:
        return Utility((TaskMeasure(make_task("x", rows), answering=Answering(**how)),)).identity()

    assert identity(ROWS) == identity(ROWS, batch_size=2)
    json.dumps(identity(ROWS))
    assert identity(ROWS) != identity(ROWS[:2])
    assert identity(ROWS) != identity([*ROWS[:2], {**ROWS[2], "reference": 0}])
    assert identity(ROWS) != identity(ROWS, raw=True)
