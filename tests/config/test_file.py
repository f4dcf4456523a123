"""Fusion files: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coolfusion import FusionModel, Source, UsageError
from coolfusion.backends import huggingface
from coolfusion.config.file import (
    config_from,
    fusion_file_among,
    overridden,
    read_fusion_file,
    settled_options,
    write_fusion_file,
)
from coolfusion.config.options import FusionConfig
from coolfusion.config.plan import recipe_options
from coolfusion.decoding.segments.end_rules import majority_mass
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.segments.rerankers import mixture
from coolfusion.testing import toy_source
from coolfusion.tokenization.boundaries import sentences

WHOLE = FusionConfig(
    models=("org/one", 'a "quoted" \\ path', "naïve\n\x7f"),
    names=("one", "two words", "drei"),
    preset="paper",
    reranker="leave_one_out(mean_nll)",
    boundary="phrases(3)",
    end_rule="joint_odds",
    gate=0.9,
    budget="tokens(500)",
    prior="prompt(0.5)",
    hedge=1e-05,
    num_samples=2,
    scores="bytes",
    weights={"one": 0.25, "two words": 1.0, "drei": 3},
)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were loaded; toy sources stand for the models."""
    paths: list[str] = []

    class Opened:
        """A toy source in two stages."""

        def __init__(self, path: Any, name: str, **_: Any) -> None:
            self.path, self.source = str(path), toy_source(name, ["Tom has 3 apples."])
            self.name, self.tokenizer = name, self.source.tokenizer

        def load(self, **_: Any) -> Source:
            paths.append(self.path)
            return self.source

    monkeypatch.setattr(huggingface, "open_source", Opened)
    return paths


@pytest.mark.parametrize(
    "config",
    [
        WHOLE,
        FusionConfig(),
        FusionConfig(lead="one", names=("one", "two"), models=("a", "b")),
        FusionConfig(gate="0.5", budget=0, hedge=0.0),
        FusionConfig(
            strategy="mixture",
            mixing="top_k_union(20)",
            route="tokens",
            prior="prompt",
            weights={"one": 2.0, "two": 1.0},
        ),
    ],
)
def test_what_is_written_is_read_back(config: FusionConfig, tmp_path: Path) -> None:
    write_fusion_file(tmp_path / "fusion.toml", config)
    assert read_fusion_file(tmp_path / "fusion.toml") == config
    assert read_fusion_file(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["fusion.toml"]


def test_every_key_is_one_of_the_recipe() -> None:
    said = recipe_options(WHOLE.said())
    others = {"lead", "models", "names", "strategy", "mixing", "route"}
    assert set(said) | others == set(FusionConfig.__slots__)
    make_recipe(**said)


def test_folders_are_found_from_the_file_and_written_whole(tmp_path: Path) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    file = tmp_path / "here" / "fusion.toml"
    file.write_text('models = ["model", "org/elsewhere"]\n')
    config = read_fusion_file(file)
    assert config.models == (str(tmp_path / "here" / "model"), "org/elsewhere")
    write_fusion_file(tmp_path / "moved.toml", config)
    assert read_fusion_file(tmp_path / "moved.toml") == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rerankr = 'mean_nll'", 'no key "rerankr". Did you mean reranker? The keys are models'),
        ("[weigths]\na = 1", "Did you mean weights"),
        ("models = 'a'", "models is 'a'; it must be a list"),
        ("models = []", "models is []"),
        ("models = ['a', 3]", "models is ['a', 3]"),
        ("names = ['a', 'a']", "names: Sources must have distinct names"),
        ("models = ['a']\nnames = ['a', 'b']", "names has 2 entries for 1 models"),
        ("preset = 'best'", 'preset: There is no preset "best". Choose one of default, paper'),
        ("reranker = 'dice'", 'reranker: There is no reranker "dice". Choose one of mean_'),
        ("reranker = 3", "reranker is 3; it must be the name"),
        ("boundary = 'verses'", 'boundary: There is no boundary "verses"'),
        ("end_rule = 'never'", 'end_rule: There is no end rule "never". Choose one of joint_odds'),
        ("gate = true", "gate is True"),
        ("gate = 2", "gate: The gate's threshold is 2"),
        ("budget = 1.5", "budget is 1.5"),
        ("budget = -1", "budget: The budget's max_contests is -1"),
        ("prior = 'mine'", 'prior: There is no prior "mine"'),
        ("hedge = -1", "hedge: hedge is -1"),
        ("hedge = nan", "hedge is nan; it must be a number"),
        ("num_samples = 0", "num_samples: num_samples is 0"),
        ("[weights]\na = 0", "weights is {'a': 0}; it must be a table of source names"),
        ("[weights]\na = 'much'", "weights is {'a': 'much'}"),
        ("models = ['a', 'b']\n[weights]\na = 1\nc = 1", 'weights names "c", which is no source'),
        ("models = ['x/a', 'b']\n[weights]\na = 1", 'no weight for source "b"'),
        ("models = ['a']\nlead = 'b'", 'lead names "b", which is no source. They are a.'),
        ("lead = 'a'\nreranker = 'mixture'", "lead and reranker exclude each other"),
        ("models = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "fusion.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_fusion_file(tmp_path / "fusion.toml")
    assert said in str(caught.value)
    assert f'"{tmp_path / "fusion.toml"}"' in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_fusion_file(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"preset = '\xe9'")
    with pytest.raises(UsageError, match="is not TOML"):
        read_fusion_file(tmp_path / "latin.toml")


def test_where_models_are_named_a_file_may_stand(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "fusion.toml").touch()
    file = tmp_path / "tuned" / "fusion.toml"
    assert fusion_file_among(str(file)) == fusion_file_among([file]) == file
    assert fusion_file_among(tmp_path / "tuned") == file
    assert fusion_file_among("no.toml") == Path("no.toml")
    for models in (None, [], "org/model", ["a", "b"], [file, file], tmp_path):
        assert fusion_file_among(models) is None
    (tmp_path / "tuned" / "config.json").touch()
    assert fusion_file_among(tmp_path / "tuned") is None


def test_what_is_given_replaces_what_is_said() -> None:
    said = {"models": ["a"], "names": ["n"], "reranker": "mixture", "weights": {"n": 1}}
    assert overridden(said, {"reranker": None}) == said
    assert overridden(said, {"reranker": "mean_nll"}) == {**said, "reranker": "mean_nll"}
    assert overridden(said, {"lead": "n"}) == {"models": ["a"], "names": ["n"], "lead": "n"}
    assert overridden({"lead": "n"}, {"weights": {"n": 2}}) == {"weights": {"n": 2}}
    assert overridden(said, {"models": ["b"]}) == {
        "models": ["b"],
        "reranker": "mixture",
        "weights": {"n": 1},
    }


def test_two_files_are_too_many() -> None:
    with pytest.raises(UsageError, match="Give one of them"):
        settled_options("fusion.toml", "other.toml", {})
    assert settled_options("a", None, {"hedge": 0.5}) == {"models": ["a"], "hedge": 0.5}


def test_a_model_is_loaded_as_its_file_says(tmp_path: Path, loaded: list[str]) -> None:
    config = FusionConfig(
        models=("org/one", "org/two"),
        names=("one", "zwei"),
        reranker="mixture",
        boundary="sentences",
        end_rule="majority_mass",
        gate=0.5,
        weights={"one": 1, "zwei": 3},
    )
    file = tmp_path / "fusion.toml"
    write_fusion_file(file, config)
    for fusion in (
        FusionModel.from_pretrained(file),
        FusionModel.from_pretrained(str(tmp_path)),
        FusionModel.from_pretrained([file]),
        FusionModel.from_pretrained(config=file),
        FusionModel.from_pretrained(config=config),
    ):
        recipe = fusion.decoder.recipe
        assert [source.name for source in fusion.sources] == ["one", "zwei"]
        assert (recipe.boundary, recipe.end_rule) == (sentences, majority_mass)
        assert recipe.weights == {"one": 1, "zwei": 3}
        assert recipe.gate is not None
    assert loaded == ["org/one", "org/two"] * 5

    changed = FusionModel.from_pretrained(file, boundary="words", lead="one").decoder.recipe
    assert (changed.boundary.name, changed.weights) == ("words", {"one": 1.0})
    others = FusionModel.from_pretrained(["x/one", "x/two"], names=["one", "zwei"], config=file)
    assert loaded[-2:] == ["x/one", "x/two"]
    assert others.decoder.recipe.weights == {"one": 1, "zwei": 3}
    plain = FusionModel.from_pretrained(config=config_from({"reranker": "mixture"}))
    assert plain.decoder.recipe.reranker is mixture
    assert len(plain.sources) == 3


def test_one_model_may_be_named_without_a_list(loaded: list[str]) -> None:
    assert [s.name for s in FusionModel.from_pretrained("org/one").sources] == ["one"]
    assert loaded == ["org/one"]


HOSTILE_TEXTS = {
    "array": "models = " + "[" * 100_000,
    "closed": "models = " + "[" * 300 + "]" * 300,
    "tables": "weights = " + "{a = " * 50_000,
    "key": "a." * 20_000 + "b = 1",
    "heading": "[" + "a." * 20_000 + "b]",
    "deep": "\n".join("[" + ".".join(["weights"] * depth) + "]" for depth in range(1, 100)),
    "number": "temperature = 1" + "0" * 400,
    "digits": "gate = 1" + "0" * 5_000,
    "weight": "[weights]\na = 1" + "0" * 400,
    "zero byte": "models = ['a\0']",
    "infinity": "gate = inf",
    "date": "boundary = 1979-05-27",
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text(HOSTILE_TEXTS[name])
    with pytest.raises(UsageError, match=r"fusion\.toml") as caught:
        read_fusion_file(file)
    assert len(str(caught.value)) < 2_000


def test_files_that_are_none_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "device.toml").symlink_to("/dev/zero")
    (tmp_path / "dangling.toml").symlink_to("nowhere")
    (tmp_path / "to pipe.toml").symlink_to("pipe.toml")
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(10**9)
    names = [
        *(path.name for path in tmp_path.iterdir()),
        "x" * 5_000,
        "a\0b",
        "\ud800",
        "huge.toml/x",
    ]
    for name in names:
        with pytest.raises(UsageError, match=r"Cannot read the fusion file|must be a path"):
            read_fusion_file(tmp_path / name)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "fusion.toml")
    with pytest.raises(UsageError, match="named pipe"):
        read_fusion_file(folder)


def test_names_that_no_file_can_hold_leave_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "fusion.toml"
    write_fusion_file(file, FusionConfig(names=("a", "b")))
    before = file.read_bytes()
    with pytest.raises(UsageError, match="half a character"):
        write_fusion_file(file, FusionConfig(names=("a", "\ud800")))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fusion.toml"]
