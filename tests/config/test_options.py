"""The table of options, and what is made from it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from coolfusion import UsageError
from coolfusion.cli.options import options_table
from coolfusion.config.kinds import MIXTURE, SEGMENTS
from coolfusion.config.options import (
    BY_NAME,
    OPTIONS,
    RESPONSE,
    options_of,
    resume_settings,
)
from coolfusion.config.plan import plan_fusion, plan_recipe
from coolfusion.decoding.request import request
from coolfusion.decoding.segments.rerankers import mixture
from coolfusion.evaluation.harness_options import fusion_options
from coolfusion.fusion import FusionModel

PAGE = Path(__file__).parents[2] / "docs" / "use" / "options.md"
REFRESH = (
    "docs/use/options.md is not that of the table. Put what this prints between its two comments: "
    'python -c "from coolfusion.cli.options import options_table; print(options_table())"'
)
PYTHON_ONLY = {"model_options", "progress", "when_opened"}  # objects, which only Python can give
CALLS = [FusionModel.generate, FusionModel.stream, FusionModel.n_best, FusionModel.generate_batch]


def defaults(function: Any) -> dict[str, object]:
    """The parameters of a signature with their defaults."""
    return {name: each.default for name, each in inspect.signature(function).parameters.items()}


def test_names_are_said_once() -> None:
    assert len(BY_NAME) == len(OPTIONS)
    flags = [flag for each in OPTIONS for flag in each.flags]
    assert len(set(flags)) == len(flags)


def test_python_agrees_with_the_table() -> None:
    of_fusion = {each.name: each.default for each in OPTIONS if each.group != RESPONSE}
    signature = defaults(FusionModel.from_pretrained)
    assert {k: v for k, v in signature.items() if k not in PYTHON_ONLY} == of_fusion
    of_request = {each.name: each.default for each in options_of(RESPONSE)}
    assert defaults(request) == of_request
    for call in CALLS:
        assert of_request.items() <= defaults(call).items(), call.__name__
        others = defaults(call).keys() - of_request.keys()
        assert others <= {
            "self", "prompt", "prompts", "strategy", "width", "max_rows", "max_batch_tokens"
        }  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    body = page.split("<!-- options -->\n")[1].split("\n<!-- end of options -->")[0]
    assert body == options_table(), REFRESH


def test_every_option_knows_its_default_and_checks_its_values() -> None:
    for option in OPTIONS:
        assert option.default_text, option.name
        assert option.help, option.name
        if option.default not in (None, ()):
            option.check_value(option.default)
        with pytest.raises(UsageError, match=f"^{option.name} is .*; it must be "):
            option.check_value(object())
    for name, value, said in (
        ("top_p", 2, "top_p: top_p is 2; it must be above 0"),
        ("stop", ["a", ""], "stop is"),
        ("max_new_tokens", True, "max_new_tokens is True; it must be a whole number"),
        ("on_source_error", "ignore", "on_source_error: on_source_error is 'ignore'"),
        ("preset", "best", 'preset: There is no preset "best"'),
    ):
        with pytest.raises(UsageError, match=said):
            BY_NAME[name].check_value(value)


def test_each_strategy_refuses_what_is_of_the_other() -> None:
    values = {"gate": 0.5, "budget": 3, "hedge": 0.5, "num_samples": 2}
    for option in OPTIONS:
        if option.strategy == SEGMENTS:
            said = {"strategy": MIXTURE, option.name: values.get(option.name, "x")}
            with pytest.raises(UsageError, match=f"{option.name} is .* and the strategy"):
                plan_fusion(["a", "b"], said)
    assert plan_fusion(["a", "b"], {"strategy": MIXTURE, "preset": "default"}).strategy == MIXTURE


def test_weights_are_for_all_sources() -> None:
    names, recipe = plan_recipe(["x/a", "x/b"], {"weights": [1, 3], "reranker": "mixture"})
    assert (names, recipe.weights) == (["a", "b"], {"a": 1, "b": 3})
    for said, message in (
        ({"weights": {"a": 1}}, 'no weight for source "b"'),
        ({"weights": {"a": 1, "c": 1}}, 'weights names "c", which is no source'),
        ({"reranker": "weighted(mean_nll, a=2)"}, 'no weight for source "b"'),
        ({"lead": "c"}, 'lead names "c", which is no source'),
        ({"weights": [1]}, "weights has 1 entries for 2 models"),
    ):
        with pytest.raises(UsageError, match=message):
            plan_recipe(["a", "b"], said)


def test_resume_settings_are_all_that_changes_an_answer() -> None:
    nothing = resume_settings({})
    assert json.loads(json.dumps(nothing)) == nothing
    assert set(nothing) == {each.name for each in OPTIONS if each.changes_answers}
    assert {"models", "names", "dtype", "strategy", "seed", "stop"} <= set(nothing)
    assert not {"device", "speculation", "drafter", "config"} & set(nothing)
    assert (
        resume_settings({"preset": "default", "strategy": "segments", "device": "cpu"}) == nothing
    )
    assert resume_settings({"hedge": 0, "num_samples": 1, "names": None}) == nothing
    assert resume_settings({"gate": "0.5"}) == resume_settings({"gate": 0.5})
    assert resume_settings({"budget": "3"}) == resume_settings({"budget": 3}) != nothing
    said = {"models": [Path("a"), "b"], "reranker": mixture, "stop": ("x",), "weights": {"a": 1}}
    assert resume_settings(said) == {
        **nothing,
        "models": ["a", "b"],
        "reranker": "mixture",
        "stop": ["x"],
        "weights": {"a": 1},
    }


def test_arguments_of_the_harness_are_read_as_python_takes_them() -> None:
    said = {"models": "a;b", "names": "x; 2", "weights": "1;2", "dtype": "auto;float32", "lead": 7}
    assert fusion_options({**said, "device": "cpu", "gate": 0.5, "budget": 3, "hedge": None}) == {
        "models": ["a", "b"],
        "names": ["x", "2"],
        "weights": [1.0, 2.0],
        "dtype": ["auto", "float32"],
        "device": "cpu",
        "lead": "7",
        "gate": 0.5,
        "budget": 3,
    }
    for name, message in (
        ("torch_dtype", "Did you mean dtype"),
        ("seed", "seed is no argument of the harness: a task has no"),
        ("mixing", "mixing is no argument of the harness: the harness asks"),
        ("zzz", "Choose from models, config"),
    ):
        with pytest.raises(UsageError, match=message):
            fusion_options({name: 1})
    with pytest.raises(UsageError, match="write numbers as 1;2;1"):
        fusion_options({"weights": "much"})
