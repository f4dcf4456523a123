"""Every public callable, given every kind of wrong value: it works, or says which argument is wrong.

Each call of the table is right as it stands. One argument after another is replaced by one strange
value after another. What comes out is a result, or a ``CoolfusionError`` that names the argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coolfusion import (
    Boundary,
    FusionModel,
    MixtureDecoder,
    Recipe,
    Request,
    Sampling,
    SegmentDecoder,
    Source,
    Speculation,
    read_trace,
    write_trace,
)
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.ngram import NgramBackend
from coolfusion.config.file import config_from, read_fusion_file, write_fusion_file
from coolfusion.config.options import FusionConfig
from coolfusion.decoding.answers.rerank import rerank, rerank_answers
from coolfusion.decoding.answers.vote import majority_vote, self_consistency
from coolfusion.decoding.mixture.options import Mixture, make_mixture
from coolfusion.decoding.mixture.rules import TopKUnion, mixing_named
from coolfusion.decoding.segments.beam import BeamSearch
from coolfusion.decoding.segments.gates import Budget, Confidence, budget_named, gate_named
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.segments.rerankers import (
    calibrated,
    lead,
    leave_one_out,
    mean_nll,
    reranker_named,
    weighted,
    without_outliers,
)
from coolfusion.decoding.source_weights import PromptPrior, hedged, prior_named
from coolfusion.errors import CoolfusionError
from coolfusion.evaluation import (
    EvaluationPlan,
    Record,
    Task,
    bootstrap_interval,
    evaluate,
    exact_mcnemar,
    make_task,
    metric_named,
    paired_p_value,
    paired_permutation,
    read_task,
)
from coolfusion.jsonlog import JsonLog
from coolfusion.merging import Adapter, Merge, MergeRecipe, merge, open_recipe, read_recipe
from coolfusion.search import Coefficients, Grid, Limits, grid_search, random_search, uniform_search
from coolfusion.swarm import (
    Answering,
    Experts,
    FunctionMeasure,
    HarnessMeasure,
    Loading,
    SwarmPlan,
    TaskMeasure,
    Utility,
    harmonic_mean,
    swarm,
)
from coolfusion.testing import toy_source
from coolfusion.tokenization.boundaries import boundary_named, phrases, words
from coolfusion.tuning import TuningPlan, split_rows, tune
from coolfusion.types import Candidate

TEXTS = ["Tom has 3 apples.", "Ann has 5 pears."]
SOURCES = (
    toy_source("a", TEXTS, context_length=60),
    toy_source("b", TEXTS[::-1], family="unigram", context_length=60),
)
ROWS = [{"prompt": "Tom has", "reference": "3"}, {"prompt": "Ann has", "reference": "5"}]


class Hostile:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def strange() -> list[Any]:
    """Values of all kinds; made anew for each call, as some of them can be used up."""
    numbers = [True, 0, 1, 3, -1, 10**30, 10**5000, -(10**5000), 1.5, 0.0, -0.5, 1e-320, 1e308]
    floats = [float("nan"), float("inf"), -float("inf"), 2j, np.float64(0.5), np.int64(2)]
    texts = ["", " ", "x", "3", "nan", "a\0b", "\ud800", "\u202e\x1b[31m", "(" * 3000, "x(" * 3000]
    others: list[Any] = [None, ..., b"x", bytearray(b"x"), Hostile(), lambda *_: "Tom", Path(".")]
    arrays = [np.array([1.0, 2.0]), np.array(3), np.array(["x"]), np.array([[1.0]]), np.bool_(True)]
    lists: list[Any] = [[], (), ["x"], ["a", "a"], ("a", "b"), [None], [b"x"], [1, 2], [[]], [""]]
    more: list[Any] = [
        {},
        {"x": 1},
        {"a": -1},
        {"a": 0, "b": 0},
        {"a": float("nan")},
        {1: 2},
        {"x": None},
    ]
    sets: list[Any] = [set(), {"x"}, frozenset({1}), range(3), iter(["x"]), (x for x in [1])]
    return [*numbers, *floats, *texts, *others, *arrays, *lists, *more, *sets]


@dataclass(frozen=True)
class Call:
    """A call that is right, and those of its arguments that are replaced (None: all)."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def calls(folder: Path) -> Iterator[Call]:
    """Every public callable that takes arguments from users."""
    fusion = FusionModel(SOURCES)
    request = Request(max_new_tokens=3)
    options = {
        "max_new_tokens": 3,
        "max_segment_tokens": 2,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 0,
        "stop": "q",
        "on_source_error": "drop",
    }
    yield Call(
        FusionModel,
        {
            "sources": SOURCES,
            "recipe": None,
            "speculation": None,
            "strategy": "segments",
            "mixture": None,
        },
    )
    yield Call(fusion.generate, {"prompt": "Tom", "strategy": None, **options})
    yield Call(lambda **given: list(fusion.stream(**given)), {"prompt": "Tom", **options})
    yield Call(fusion.n_best, {"prompt": "Tom", "width": 2, **options})
    yield Call(
        fusion.generate_batch,
        {"prompts": ["Tom"], "max_rows": 2, "max_batch_tokens": 100, **options},
    )
    yield Call(fusion.decoder_for, {"strategy": None})
    for decoder in (SegmentDecoder(SOURCES), MixtureDecoder(SOURCES)):
        yield Call(decoder.start, {"prompt": "Tom", "request": request})
        yield Call(decoder.generate, {"prompt": "Tom", "request": request})
        yield Call(
            lambda decoder=decoder, **given: list(decoder.stream(**given)),
            {"prompt": "Tom", "request": request},
        )
        yield Call(
            decoder.generate_batch,
            {"prompts": ["Tom"], "request": request, "max_rows": 2, "max_tokens": 90},
        )
        yield Call(
            lambda decoder=decoder, **given: list(decoder.generate_each(**given)),
            {"prompts": ["Tom"], "request": request, "max_rows": 2, "max_tokens": 90},
        )
    yield from _of_parts(fusion, request)
    yield from _of_files(folder, fusion)
    yield from _of_tasks(fusion)
    yield from _of_checkpoints(folder)


def _of_parts(fusion: FusionModel, request: Request) -> Iterator[Call]:
    yield Call(SegmentDecoder, {"sources": SOURCES, "recipe": Recipe(), "speculation": None})
    yield Call(MixtureDecoder, {"sources": SOURCES, "mixture": Mixture()})
    yield Call(BeamSearch, {"decoder": fusion.decoder, "width": 2})
    yield Call(BeamSearch(fusion.decoder, 2).generate, {"prompt": "Tom", "request": request})
    yield Call(
        Request,
        {
            "max_new_tokens": 3,
            "stop": ("q",),
            "sampling": Sampling(),
            "max_segment_tokens": 3,
            "on_source_error": "drop",
        },
    )
    yield Call(Sampling, {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 3})
    yield Call(
        Recipe,
        {
            "boundary": words,
            "reranker": mean_nll,
            "end_rule": None,
            "weights": {},
            "gate": None,
            "budget": None,
            "prior": None,
            "hedge": 0.0,
            "num_samples": 1,
            "scores": "tokens",
        },
    )
    yield Call(
        make_recipe,
        {
            "preset": "default",
            "reranker": None,
            "weights": None,
            "lead_source": None,
            "boundary": None,
            "end_rule": None,
            "gate": None,
            "budget": None,
            "prior": None,
            "hedge": None,
            "num_samples": None,
            "scores": None,
        },
    )
    yield Call(Speculation, {"drafter": None, "look_up": True})
    yield Call(
        Source, {"name": "a", "tokenizer": SOURCES[0].tokenizer, "backend": SOURCES[0].backend}
    )
    yield Call(Boundary, {"name": "x", "propose": lambda _: (), "max_tokens": 3})
    yield Call(phrases, {"num_words": 2})
    yield Call(boundary_named, {"name": "words"})
    yield Call(reranker_named, {"text": "mean_nll"})
    yield Call(lead, {"source": "a"})
    yield Call(weighted, {"reranker": mean_nll, "weights": {"a": 1.0}})
    yield Call(without_outliers, {"reranker": mean_nll, "ratio": 10.0})
    yield Call(leave_one_out, {"reranker": mean_nll})
    yield Call(calibrated, {"reranker": mean_nll})
    yield Call(Confidence, {"threshold": 0.5})
    yield Call(Budget, {"max_contests": 1, "max_scored_tokens": 1})
    yield Call(gate_named, {"choice": 0.5})
    yield Call(budget_named, {"choice": 3})
    yield Call(PromptPrior, {"temperature": 1.0})
    yield Call(prior_named, {"choice": "prompt"})
    yield Call(hedged, {"log_weights": [0.0, -1.0], "losses": [1.0, 2.0], "eta": 0.1})
    yield Call(Mixture, {"weights": {}, "prior": None, "route": "auto"})
    yield Call(make_mixture, {"mixing": None, "weights": None, "prior": None, "route": None})
    yield Call(mixing_named, {"choice": "arithmetic"})
    yield Call(TopKUnion, {"size": 3})
    yield Call(
        rerank,
        {
            "sources": SOURCES,
            "prompts": ["Tom"],
            "candidates": [[Candidate(" has", False, ("a",))]],
            "reranker": mean_nll,
            "on_source_error": "drop",
        },
    )
    yield Call(
        rerank_answers,
        {
            "decoder": fusion.decoder,
            "prompts": ["Tom"],
            "request": request,
            "with_fused": False,
            "num_samples": 1,
        },
    )
    yield Call(
        self_consistency,
        {
            "sources": SOURCES,
            "prompts": ["Tom"],
            "request": Request(3, sampling=Sampling(0.7)),
            "extract": str,
            "num_samples": 1,
        },
    )
    yield Call(majority_vote, {"texts": ["a", "b"], "extract": str})
    yield Call(
        NgramBackend,
        {"texts": [[0, 1]], "vocab_size": 2, "order": 2, "strength": 0.1, "context_length": None},
    )


def _of_files(folder: Path, fusion: FusionModel) -> Iterator[Call]:
    generation = fusion.generate("Tom", max_new_tokens=3)
    trace, config, rows = folder / "t.jsonl", folder / "fusion.toml", folder / "rows.jsonl"
    write_trace(trace, [generation])
    write_fusion_file(config, FusionConfig(boundary="words"))
    rows.write_text('{"prompt": "a", "reference": "b"}\n')
    yield Call(write_trace, {"path": trace, "generations": [generation], "prompt": "x"})
    yield Call(read_trace, {"path": trace})
    yield Call(read_fusion_file, {"path": config})
    yield Call(write_fusion_file, {"path": config, "config": FusionConfig()})
    yield Call(config_from, {"data": {}})
    yield Call(read_task, {"path": rows})
    yield Call(
        lambda **given: JsonLog(**given).close(),
        {"path": folder / "log", "take": print, "start": "x", "settings": {}},
    )
    yield Call(lambda **given: Record(**given).close(), {"path": folder / "record", "settings": {}})
    said = {
        "config": None,
        "names": None,
        "device": None,
        "dtype": None,
        "preset": None,
        "reranker": None,
        "weights": None,
        "lead": None,
        "boundary": None,
        "end_rule": None,
        "gate": None,
        "budget": None,
        "prior": None,
        "hedge": None,
        "num_samples": None,
        "scores": None,
        "speculation": True,
        "strategy": None,
        "mixing": None,
        "route": None,
        "trust_remote_code": False,
        "lossy_ok": False,
        "drafter": None,
    }
    yield Call(
        FusionModel.from_pretrained,
        {"models": [str(folder / "none")], "model_options": None, "progress": None, **said},
    )
    yield Call(
        load_source,
        {
            "path": folder / "none",
            "name": "x",
            "device": None,
            "dtype": None,
            "trust_remote_code": False,
            "lossy_ok": False,
            "model_options": None,
        },
    )


def _of_tasks(fusion: FusionModel) -> Iterator[Call]:
    task = make_task("t", ROWS)
    request = Request(max_new_tokens=3)
    yield Call(make_task, {"name": "t", "rows": ROWS})
    yield Call(Task, {"name": "t", "rows": task.rows})
    yield Call(task.first, {"count": 1})
    yield Call(metric_named, {"name": "exact_match"})
    yield Call(
        EvaluationPlan,
        {
            "systems": ("fusion",),
            "num_samples": 1,
            "sampling": Sampling(0.7),
            "batch_size": 2,
            "seed": 0,
        },
    )
    plan = EvaluationPlan(("fusion",), batch_size=2)
    yield Call(
        evaluate,
        {
            "decoder": fusion.decoder,
            "task": task,
            "fused": None,
            "metric": "contains",
            "request": request,
            "plan": plan,
            "record": None,
            "prompt_of": None,
            "progress": None,
        },
    )
    yield Call(
        bootstrap_interval, {"values": [1.0, 0.0], "level": 0.9, "num_resamples": 10, "seed": 0}
    )
    yield Call(exact_mcnemar, {"num_fixed": 1, "num_broken": 2})
    yield Call(
        paired_permutation,
        {"first": [1.0, 2.0], "second": [2.0, 2.0], "num_resamples": 10, "seed": 0},
    )
    yield Call(paired_p_value, {"first": [1.0, 0.0], "second": [0.0, 0.0], "seed": 0})
    yield Call(
        TuningPlan,
        {
            "metric": "contains",
            "search": "grid",
            "num_trials": 1,
            "vary": {"boundary": ["words", "lines"]},
            "held_out": 0.5,
            "seed": 0,
            "num_shown": 1,
        },
    )
    tuning = TuningPlan("contains", "grid", 2, {"boundary": ["words", "lines"]})
    yield Call(
        tune,
        {
            "sources": SOURCES,
            "task": make_task("t", ROWS),
            "plan": tuning,
            "base": None,
            "request": request,
            "record": None,
            "prompt_of": None,
            "batch_size": 2,
            "speculation": None,
            "progress": None,
        },
    )
    yield Call(split_rows, {"task": task, "held_out": 0.5, "seed": 0})


def _of_checkpoints(folder: Path) -> Iterator[Call]:
    none = str(folder / "none")
    both = Merge("linear", (none, none))
    yield Call(
        Merge,
        {
            "method": "linear",
            "models": (none, none),
            "base": None,
            "weights": (),
            "parameters": {},
            "seed": 0,
        },
    )
    yield Call(MergeRecipe, {"merge": both, "dtype": None, "ignore": ()})
    yield Call(Adapter, {"path": none, "on": None})
    yield Call(
        merge,
        {
            "recipe": both,
            "output": folder / "merged",
            "overwrite": False,
            "max_shard_bytes": 1000,
            "progress": None,
        },
    )
    yield Call(open_recipe, {"recipe": MergeRecipe(both)})
    yield Call(read_recipe, {"path": none})
    yield Call(Grid, {"axes": {"x": (1.0, 2.0)}})
    grid = Grid({"x": (1.0, 2.0)})
    yield Call(grid_search, {"grid": grid})
    yield Call(random_search, {"grid": grid, "count": 1, "seed": 0})
    yield Call(
        uniform_search, {"low": (0.0,), "high": (1.0,), "count": 1, "seed": 0, "batch_size": 1}
    )
    yield Call(
        Coefficients,
        {
            "inertia": 0.2,
            "cognitive": 0.3,
            "social": 0.4,
            "repel": 0.05,
            "step_length": 0.8,
            "decay": 0.9,
            "floor": 0.1,
        },
    )
    yield Call(Limits, {"max_iterations": 1, "patience": 1, "restart": 1})
    yield Call(
        SwarmPlan,
        {
            "num_particles": 2,
            "reach": 1.0,
            "coefficients": Coefficients(),
            "limits": Limits(1, 1, 1),
            "trials": 1,
            "grid": Grid({"inertia": (0.1, 0.2)}),
            "seed": 0,
        },
    )
    yield Call(Experts, {"models": (none, none), "dtype": None, "ignore": ()})
    yield Call(
        Answering, {"max_new_tokens": 3, "stop": (), "system": None, "raw": False, "batch_size": 2}
    )
    yield Call(
        TaskMeasure, {"task": make_task("t", ROWS), "metric": "contains", "answering": Answering()}
    )
    yield Call(
        HarnessMeasure,
        {"task": "t", "metric": None, "limit": 3, "include_path": None, "answering": Answering()},
    )
    yield Call(FunctionMeasure, {"function": "math:sqrt"})
    yield Call(Loading, {"dtype": None, "trust_remote_code": False, "lossy_ok": False})
    utility = Utility((FunctionMeasure("math:sqrt"),))
    yield Call(Utility, {"measures": utility.measures, "loading": Loading()})
    yield Call(harmonic_mean, {"values": [1.0, 2.0]})
    yield Call(
        swarm,
        {
            "experts": Experts((none, none)),
            "utility": utility,
            "output": folder / "s",
            "plan": None,
            "devices": (None,),
            "scratch": None,
            "progress": None,
        },
    )


def complaint(call: Call, argument: str, value: object) -> str:
    """What is wrong with how a call takes a value; "": nothing."""
    given = {**call.arguments, argument: value}
    try:
        result = call.function(**given)
        if inspect.isgenerator(result):
            list(islice(result, 3))
    except CoolfusionError as error:
        return "" if named(argument, value, str(error)) or raises(call) else f"silent: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def named(argument: str, value: object, text: str) -> bool:
    """Whether an error says which argument is wrong, by its name or by the value that it shows."""
    words = text.lower().replace("_", " ")
    name = argument.replace("_", " ")
    keys = [str(key) for key in value] if isinstance(value, dict) else []
    return (
        any(f'"{key}"' in text for key in keys)
        or name in words
        or name.rstrip("s") in words
        or _short(value, str) in text
    )


def raises(call: Call) -> bool:
    """Whether a call that is right raises too, as the folder that it names is not there."""
    try:
        call.function(**call.arguments)
    except CoolfusionError:
        return True
    return False


@pytest.mark.filterwarnings("error")
def test_a_strange_value_works_or_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = [
        f"{call.name}({argument}={_short(value)}): {said}"
        for call in calls(tmp_path)
        for argument in call.arguments
        for value in strange()
        if (said := complaint(call, argument, value))
    ]
    assert wrong == []


def test_a_value_of_no_use_anywhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing is taken in silence for what it is not."""
    monkeypatch.chdir(tmp_path)
    taken = [
        f"{call.name}({argument}={_short(value)})"
        for call in calls(tmp_path)
        for argument in call.arguments
        for value in (b"x", 2j, ..., Hostile(), {b"x"}, NotImplemented)
        if is_taken(call, argument, value)
    ]
    assert taken == []


def is_taken(call: Call, argument: str, value: object) -> bool:
    try:
        call.function(**{**call.arguments, argument: value})
    except CoolfusionError as error:
        return raises(call) and not named(argument, value, str(error))
    return True


def _short(value: object, shown: Callable[[object], str] = repr) -> str:
    try:
        return shown(value)[:40]
    except Exception:
        return type(value).__name__
