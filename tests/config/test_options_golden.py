"""What every interface of a fusion accepts, recorded before all were made from one table."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest

from coolfusion.cli import parser
from coolfusion.config.file import config_from
from coolfusion.config.options import FusionConfig
from coolfusion.decoding.request import request
from coolfusion.fusion import FusionModel

MODELS = "-m --model --config --names --device --dtype --trust-remote-code --lossy-ok"
FUSION = (
    "--preset --reranker --weights --lead --boundary --end-rule --gate --budget --prior --hedge "
    "--drafts --scores --no-speculation --drafter"
)
REQUEST = (
    "--max-new-tokens --max-segment-tokens --temperature --top-k --top-p --seed --stop "
    "--on-source-error"
)
COMMANDS = {
    "generate": f"-h --help --prompt-for --system --raw {MODELS} {FUSION} --strategy --mixing --route "
    f"{REQUEST} --json --explain --n-best --trace --input --output --batch-size --max-batch-tokens "
    "--no-color -q --quiet",
    "eval": "-h --help --task --metric --systems --limit --samples --sample-temperature --system --raw "
    f"--include-path {MODELS} {FUSION} --strategy --mixing --route {REQUEST} --output --json "
    "--batch-size",
    "tune": "-h --help --task --metric --search --trials --vary --held-out --show --limit --system "
    f"--raw {MODELS} {FUSION} {REQUEST} --output --json --batch-size",
    "inspect": f"-h --help --text --boundary --json {MODELS}",
    "swarm": "-h --help -m --model --on --dtype --ignore --task --metric --utility --limit --system "
    "--raw --max-new-tokens --stop --batch-size --include-path --device --run-dtype "
    "--trust-remote-code --lossy-ok --particles --iterations --patience --restart --reach --inertia "
    "--cognitive --social --repel --step-length --decay --floor --trials --seed --output --scratch "
    "-q --quiet",
    "merge": "-h --help --method -m --model --base --on --weights --t --density --drop --scale "
    "--seed --dtype --recipe --ignore --output --overwrite --max-shard-size -q --quiet",
}
NEEDED = {"eval": ["--task", "t"], "tune": ["--task", "t", "--output", "o"]}
KEYS = (
    "models names preset reranker lead boundary end_rule gate budget prior hedge num_samples scores "
    "strategy mixing route weights"
)
KEYWORDS = (
    "models config names preset reranker weights lead boundary end_rule gate budget prior hedge "
    "num_samples scores strategy mixing route speculation drafter device dtype trust_remote_code "
    "lossy_ok model_options when_opened progress"
)
REQUEST_KEYWORDS = (
    "max_new_tokens stop temperature top_k top_p seed max_segment_tokens on_source_error"
)
HARNESS_MODULE = "coolfusion.evaluation.harness"
HARNESS = (
    "models decoder names preset reranker weights lead boundary dtype device trust_remote_code "
    "combination max_gen_toks batch_size max_batch_size"
)
GIVEN = (
    "-m a --model b --config c --names x,y --device cpu --dtype float32,auto --trust-remote-code "
    "--lossy-ok --preset paper --reranker mixture --weights 1,2 --lead x --boundary lines "
    "--end-rule compete --gate 0.5 --budget tokens(5) --prior prompt --hedge 0.25 --drafts 3 "
    "--scores bytes --no-speculation --drafter d --max-new-tokens 7 --max-segment-tokens 8 "
    "--temperature 0.5 --top-k 9 --top-p 0.75 --seed 10 --stop u --stop v --on-source-error raise"
)
READ = {
    "model": ["a", "b"],
    "config": "c",
    "names": "x,y",
    "device": "cpu",
    "dtype": "float32,auto",
    "trust_remote_code": True,
    "lossy_ok": True,
    "preset": "paper",
    "reranker": "mixture",
    "weights": "1,2",
    "lead": "x",
    "boundary": "lines",
    "end_rule": "compete",
    "gate": "0.5",
    "budget": "tokens(5)",
    "prior": "prompt",
    "hedge": 0.25,
    "num_samples": 3,
    "scores": "bytes",
    "speculation": False,
    "drafter": "d",
    "max_new_tokens": 7,
    "max_segment_tokens": 8,
    "temperature": 0.5,
    "top_k": 9,
    "top_p": 0.75,
    "seed": 10,
    "stop": ["u", "v"],
    "on_source_error": "raise",
}
DEFAULTS = {
    **dict.fromkeys(READ),
    "trust_remote_code": False,
    "lossy_ok": False,
    "preset": "default",
    "speculation": True,
    "max_new_tokens": 256,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "stop": [],
    "on_source_error": "drop",
}
TOML = {
    "models": ["a", "b"],
    "names": ["x", "y"],
    "preset": "paper",
    "reranker": "mixture",
    "boundary": "lines",
    "end_rule": "compete",
    "gate": 0.5,
    "budget": 3,
    "prior": "prompt",
    "hedge": 0.25,
    "num_samples": 3,
    "scores": "bytes",
    "weights": {"x": 1, "y": 2},
}
# Accepted since; nothing that was accepted is gone.
ADDED_OPTIONS = {"--help-all"}
ADDED_HARNESS = set(
    "config end_rule gate budget prior hedge num_samples scores speculation drafter lossy_ok".split()
)


def spellings(command: str) -> set[str]:
    """Every option string of a command."""
    (commands,) = (a for a in parser()._actions if isinstance(a.choices, dict))
    return {text for action in commands.choices[command]._actions for text in action.option_strings}


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_the_command_line(command: str) -> None:
    assert spellings(command) == set(COMMANDS[command].split()) | ADDED_OPTIONS


@pytest.mark.parametrize("command", ["generate", "eval", "tune"])
def test_what_the_command_line_reads(command: str) -> None:
    needed = NEEDED.get(command, [])
    given = vars(parser().parse_args([command, *needed, *GIVEN.split()]))
    assert {name: given[name] for name in READ} == READ
    nothing = vars(parser().parse_args([command, *needed]))
    assert {name: nothing[name] for name in DEFAULTS} == DEFAULTS


def test_options_of_mixtures() -> None:
    for command in ("generate", "eval"):
        line = [
            command,
            *NEEDED.get(command, []),
            "--strategy",
            "s",
            "--mixing",
            "m",
            "--route",
            "r",
        ]
        given = parser().parse_args(line)
        assert (given.strategy, given.mixing, given.route) == ("s", "m", "r")


def test_keys_of_a_fusion_file() -> None:
    assert set(FusionConfig.__slots__) == set(KEYS.split())
    said = config_from(TOML).said()
    assert said == TOML
    assert list(said) == [key for key in KEYS.split() if key in TOML]
    mixed = {"strategy": "mixture", "mixing": "geometric", "route": "bytes"}
    assert config_from(mixed).said() == mixed
    assert config_from({"lead": "x"}).said() == {"lead": "x"}


def test_keywords_of_python() -> None:
    assert set(inspect.signature(FusionModel.from_pretrained).parameters) == set(KEYWORDS.split())
    assert set(inspect.signature(request).parameters) == set(REQUEST_KEYWORDS.split())


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness model's module, on a stand-in for lm-eval where that is not installed."""
    if find_spec("lm_eval") is None:
        model: Any = ModuleType("lm_eval.api.model")
        model.LM = type("LM", (), {})
        registry: Any = ModuleType("lm_eval.api.registry")
        registry.register_model = lambda *_: lambda cls: cls
        for module in (ModuleType("lm_eval"), ModuleType("lm_eval.api"), model, registry):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, HARNESS_MODULE, model)  # forgotten again at the end
        del sys.modules[HARNESS_MODULE]
    return import_module(HARNESS_MODULE)


def test_arguments_of_the_harness(harness: Any) -> None:
    names = set(inspect.signature(harness.CoolfusionLM).parameters)
    assert names == set(HARNESS.split()) | ADDED_HARNESS
