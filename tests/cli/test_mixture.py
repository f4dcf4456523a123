"""``--strategy mixture``: generate, eval, fusion files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coolfusion import FusionModel, UsageError, read_trace
from coolfusion.config.file import write_fusion_file
from coolfusion.config.options import FusionConfig
from tests.cli.conftest import QUESTION, Run

CHAT = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def twins(models: dict[str, Path], copy_of: Any) -> list[object]:
    """Options that name two sources with one vocabulary."""
    return ["-m", models["sums"], "-m", copy_of("sums"), "--names", "one,two"]


@pytest.fixture
def expected(models: dict[str, Path]) -> str:
    """What a mixture of a model with itself says: what the model says."""
    alone = FusionModel.from_pretrained(models["sums"])
    return alone.generate(CHAT, max_new_tokens=16).text


def test_generate_streams_explains_and_records(
    run: Run, twins: list[object], expected: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    command = ["generate", *twins, "--strategy", "mixture", "--max-new-tokens", 16]
    got = run(*command, "--trace", trace, "--explain", QUESTION)
    assert (got.code, got.out) == (0, expected + "\n")
    assert "all agree" in got.err
    assert "0 contested" in got.err
    (generation,) = read_trace(trace)
    assert generation.text == expected
    assert generation.sources == ("one", "two")
    got = run(*command, "--json", "--mixing", "geometric", "--route", "tokens", QUESTION)
    record = json.loads(got.out)
    assert record["text"] == expected
    assert record["wins"] == {"one": record["num_steps"], "two": record["num_steps"]}
    got = run(*command, "--json", "--weights", "3,1", "--temperature", 1, "--seed", 3, QUESTION)
    assert set(json.loads(got.out)["wins"]) == {"one", "two"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "mixture", "--gate", 0.9), "gate is '0.9' and the strategy"),
        (("--strategy", "mixture", "--reranker", "mean_nll"), "reranker is 'mean_nll'"),
        (("--strategy", "mixture", "--boundary", "lines"), "boundary is 'lines'"),
        (("--strategy", "mixture", "--lead", "one"), "give weights instead"),
        (("--strategy", "mixture", "--preset", "paper"), "preset is 'paper'"),
        (("--strategy", "mixture", "--drafter", "x"), "no use for guesses"),
        (("--strategy", "mixture", "--n-best", 2), "--n-best searches among segments"),
        (("--strategy", "mixture", "--mixing", "harmonic"), 'no mixing rule "harmonic"'),
        (("--strategy", "mixture", "--route", "words"), 'no route "words"'),
        (("--strategy", "mixture", "--weights", "one=1"), 'no weight for source "two"'),
        (
            ("--strategy", "mixture", "--weights", "one=1,tom=1"),
            'weights names "tom", which is no source',
        ),
        (("--strategy", "mixture", "--max-segment-tokens", 3), "max_segment_tokens is 3"),
        (("--strategy", "mixture", "--mixing", "top_k_union", "--route", "bytes"), "for tokens"),
        (("--strategy", "blend"), 'no strategy "blend"'),
        (("--mixing", "geometric"), "mixing is 'geometric', but it says how"),
        (("--route", "bytes"), "nothing is mixed here"),
    ],
)
def test_what_makes_no_sense_is_named(
    run: Run, twins: list[object], options: tuple[object, ...], message: str
) -> None:
    got = run("generate", *twins, *options, QUESTION)
    assert got.code == 2
    assert message in got.err


def test_tokens_that_differ_are_not_mixed(run: Run, models: dict[str, Path]) -> None:
    command = ["generate", "-m", models["sums"], "-m", models["groups"], "--strategy", "mixture"]
    got = run(*command, "--route", "tokens", QUESTION)
    assert got.code == 2
    assert "share no vocabulary: token 0 is" in got.err
    got = run(*command, "--mixing", "top_k_union", "--max-new-tokens", 6, "--json", QUESTION)
    assert got.code == 0
    assert json.loads(got.out)["sources"] == ["sums", "groups"]


def test_a_fusion_file(run: Run, models: dict[str, Path], copy_of: Any, tmp_path: Path) -> None:
    paths = (str(models["sums"]), str(copy_of("sums")))
    file = tmp_path / "fusion.toml"
    config = FusionConfig(
        models=paths,
        names=("one", "two"),
        strategy="mixture",
        mixing="geometric",
        route="tokens",
        weights={"one": 1, "two": 0.5},
    )
    write_fusion_file(file, config)
    got = run("generate", "--config", file, "--json", "--max-new-tokens", 8, QUESTION)
    fusion = FusionModel.from_pretrained(file)
    assert fusion.strategy == "mixture"
    assert fusion.mixture.mixture.rule.name == "geometric"
    assert fusion.mixture.mixture.weights == {"one": 1, "two": 0.5}
    assert json.loads(got.out)["text"] == fusion.generate(CHAT, max_new_tokens=8).text
    options = ("--max-new-tokens", 8, "--json", "--explain")
    got = run("generate", "--config", file, "--strategy", "segments", *options, QUESTION)
    assert (got.code, "preferred" in got.out) == (0, False)
    assert json.loads(got.out)["num_steps"] < 8
    task = tmp_path / "task.jsonl"
    task.write_text(json.dumps({"prompt": QUESTION, "reference": 5}) + "\n")
    got = run("tune", "--config", file, "--task", task, "--output", tmp_path / "tuned")
    assert got.code == 2
    assert "coolfusion tune is about segments" in got.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('strategy = "blend"', 'strategy: There is no strategy "blend"'),
        ('strategy = "mixture"\nmixing = "x"', 'mixing: There is no mixing rule "x"'),
        ('strategy = "mixture"\nroute = "x"', 'route: There is no route "x"'),
        ('strategy = "mixture"\nboundary = "lines"', "boundary is 'lines' and the strategy"),
        ('mixing = "geometric"', "mixing is 'geometric', but it says"),
        ("strategy = 3", "strategy is 3; it must be segments or mixture"),
    ],
)
def test_bad_fusion_files(run: Run, tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "fusion.toml"
    file.write_text(line + "\n")
    got = run("generate", "--config", file, QUESTION)
    assert got.code == 2
    assert message in got.err


def test_a_fusion_of_segments_can_be_asked_for_a_mixture(
    models: dict[str, Path], copy_of: Any, expected: str
) -> None:
    paths = [models["sums"], copy_of("sums")]
    fusion = FusionModel.from_pretrained(paths, names=["one", "two"], weights=[2, 1])
    limit = {"max_new_tokens": 16, "strategy": "mixture"}
    assert fusion.generate(CHAT, **limit).text == expected
    assert "".join(step.text for step in fusion.stream(CHAT, **limit)) == expected
    assert [each.text for each in fusion.generate_batch([CHAT, CHAT], **limit)] == [expected] * 2
    assert fusion.mixture.mixture.weights == {"one": 2, "two": 1}
    assert fusion.decoder is fusion.segments
    mixture = FusionModel.from_pretrained(paths, names=["one", "two"], strategy="mixture")
    assert mixture.generate(CHAT, max_new_tokens=16).text == expected
    with pytest.raises(UsageError, match='needs "segments"'):
        mixture.n_best(CHAT)
    with pytest.raises(UsageError, match='no strategy "blend"'):
        fusion.generate(CHAT, strategy="blend")


def test_eval_has_mixtures_beside_the_fusion(run: Run, twins: list[object], tmp_path: Path) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text(json.dumps({"prompt": QUESTION, "reference": 5}) + "\n")
    command = ["eval", "--task", task, *twins, "--metric", "last_number", "--max-new-tokens", 20]
    systems = "fusion,mixture,mixture(geometric),mixture(top_k_union(5))"
    got = run(*command, "--systems", systems, "--output", tmp_path / "out")
    assert got.code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    names = [each["name"] for each in report["results"]]
    assert names[-4:] == ["mixture", "mixture(geometric)", "mixture(top_k_union(5))", "fusion"]
    again = run(*command, "--systems", systems, "--output", tmp_path / "out")
    assert again.out == got.out
    got = run(*command, "--systems", "fusion", "--strategy", "mixture", "--json")
    assert [each["name"] for each in json.loads(got.out)["results"]] == ["one", "two", "fusion"]
    assert json.loads(got.out)["results"][-1]["num_contested"] == 0


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ("mixture(harmonic)", 'no mixing rule "harmonic"'),
        ("mixture(geometric", "mixture(RULE)"),
        ("blend", 'no system "blend"'),
    ],
)
def test_unknown_mixtures(
    run: Run, twins: list[object], tmp_path: Path, systems: str, message: str
) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text(json.dumps({"prompt": QUESTION, "reference": 5}) + "\n")
    got = run("eval", "--task", task, *twins, "--systems", systems)
    assert got.code == 2
    assert message in got.err
