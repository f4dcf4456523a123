"""A name that does not exist is refused with what may be meant, by every interface."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.config.file import config_from
from coolfusion.config.options import BY_NAME, OPTIONS, RESPONSE, options_of
from coolfusion.config.spelling import FOREIGN, did_you_mean
from coolfusion.errors import UnknownOptionError, UsageError
from coolfusion.fusion import FusionModel
from coolfusion.testing import toy_source

CALLS = ["generate", "stream", "n_best", "generate_batch"]


@pytest.fixture(scope="module")
def fusion() -> FusionModel:
    return FusionModel([toy_source("a", ["Tom has 3 apples."])])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_tokens", "Did you mean max_new_tokens?"),
        ("max_length", "Did you mean max_new_tokens? It counts"),
        ("stop_strings", "Did you mean stop?"),
        ("do_sample", "Did you mean temperature? Above 0"),
        ("num_return_sequences", ""),
        ("repetition_penalty", "Penalties on tokens are not offered"),
        ("torch_dtype", "It is called dtype, and is no option here"),
        ("temprature", "Did you mean temperature?"),
        ("zzz", "Choose from "),
    ],
)
def test_generation(fusion: FusionModel, call: str, name: str, said: str) -> None:
    with pytest.raises(UnknownOptionError) as caught:
        getattr(fusion, call)("Tom", **{name: 1})
    assert str(caught.value).startswith(f'{call} has no option "{name}". {said}')


def test_several_responses(fusion: FusionModel) -> None:
    with pytest.raises(
        UsageError, match=r"no option here\. Several responses come from FusionModel"
    ):
        fusion.generate("Tom", num_return_sequences=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"Did you mean width\?"):
        fusion.n_best("Tom", num_beams=3)  # type: ignore[call-arg]


def test_loading() -> None:
    with pytest.raises(TypeError, match="Did you mean dtype"):
        FusionModel.from_pretrained(torch_dtype="auto")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="Did you mean reranker"):
        FusionModel.from_pretrained(rerankr="mixture")  # type: ignore[call-arg]


def test_keys_of_a_fusion_file() -> None:
    with pytest.raises(
        UsageError, match=r'no key "bundary"\. Did you mean boundary\? The keys are'
    ):
        config_from({"bundary": "words"})
    with pytest.raises(UsageError, match="max_new_tokens is no key of a fusion file: a file says"):
        config_from({"max_new_tokens": 3})
    with pytest.raises(UsageError, match="It is called max_new_tokens, and is no option here"):
        config_from({"max_tokens": 3})


def test_names_of_other_libraries_are_none_of_ours() -> None:
    for name, meaning in FOREIGN.items():
        assert name not in BY_NAME
        for here in set(meaning.names) & BY_NAME.keys():
            assert f"Did you mean {here}?" in did_you_mean(name, BY_NAME.keys())


@given(option=st.sampled_from([each for each in OPTIONS if len(each.name) > 4]), data=st.data())
def test_a_letter_too_few_is_understood(option: object, data: st.DataObject) -> None:
    name = option.name  # type: ignore[attr-defined]
    at = data.draw(st.integers(0, len(name) - 1))
    assert did_you_mean(name[:at] + name[at + 1 :], [name]) == f"Did you mean {name}?"


def test_a_slip_in_a_foreign_name_is_found_too() -> None:
    assert did_you_mean("max_tokns", list(BY_NAME)).startswith("Did you mean max_new_tokens?")
    assert did_you_mean("repetition_penalt", []) == did_you_mean("repetition_penalty", [])


def test_names_are_compared_as_they_are_written_anywhere() -> None:
    assert did_you_mean("--top_K", ["--top-k", "--stop"]) == "Did you mean --top-k?"
    assert did_you_mean("--max-tokens", ["--max-new-tokens"]).startswith(
        "Did you mean --max-new-tokens?"
    )


@pytest.mark.parametrize("call", CALLS)
def test_help_shows_every_option(call: str) -> None:
    shown = inspect.signature(getattr(FusionModel, call)).parameters
    assert [each.name for each in options_of(RESPONSE) if each.name not in shown] == []
