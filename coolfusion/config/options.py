"""The one table of options: of a fusion, of what it costs and of a request.

From it come the command line, ``fusion.toml``, the signatures of ``FusionModel`` and the arguments
of the harness. So do the settings that a resumed run must share, and docs/use/options.md. The types of the
keywords stand below the table, for editors. A test checks that they agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypedDict

from coolfusion.backends.source import check_names
from coolfusion.config.kinds import (
    COUNT,
    COUNT_OR_TEXT,
    FLAG,
    NUMBER,
    NUMBER_OR_TEXT,
    SEGMENTS,
    TEXT,
    TEXT_OR_TEXTS,
    TEXTS,
    WEIGHTS,
    Option,
    plain,
    strategy_named,
)
from coolfusion.decoding.mixture.options import route_named
from coolfusion.decoding.mixture.rules import MixingRule, mixing_named
from coolfusion.decoding.request import request
from coolfusion.decoding.segments.end_rules import EndRule
from coolfusion.decoding.segments.gates import Budget, Gate
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.segments.rerankers import Reranker
from coolfusion.decoding.source_weights import PromptPrior
from coolfusion.tokenization.boundaries import Boundary

MODELS: Final = "models"
FUSION: Final = "fusion"
SPEED: Final = "speed"
STRATEGY: Final = "strategy"
RESPONSE: Final = "response"

_MACHINE: Final = "it belongs to the machine, not to the fusion"
_CONSENT: Final = "only the person who runs it may allow that"
_COST: Final = "it changes what a response costs, and no response"
_REQUEST: Final = "a file says how to fuse, and a request how far to go"
_TASK: Final = "a task says it, in its generation_kwargs"
_NO_SETTING: Final = "a task has no such setting"
_NO_MIXTURE: Final = "the harness asks for likelihoods of segments"
_PRESET: Final = "as in the preset"


def _part(name: str) -> Callable[[Any], object]:
    """A check that a recipe can be made with this value."""
    return lambda value: make_recipe(**{name: value})


def _limit(name: str) -> Callable[[Any], object]:
    """A check that a request can be made with this value."""
    return lambda value: request(**{name: value})


# fmt: off
# A table: one option in three lines, of what it is, what it says and what follows.
OPTIONS: Final[tuple[Option, ...]] = (
    Option("models", MODELS, TEXTS, "a list of folders, GGUF files or hub ids", unset="the built-in sources",
           help="folder, GGUF file or hub id (org/name, org/name:file.gguf) of a source, or one fusion file",
           spellings=("-m", "--model"), metavar="MODEL", repeats=True, matters=True),
    Option("config", MODELS, TEXT, "a path", unset="none",
           help="a fusion file; options that are given replace what it says",
           metavar="FILE", matters=True, changes_answers=False, not_in_file="it is the file"),
    Option("names", MODELS, TEXTS, "a list of distinct texts, one for each model", unset="the last part of each path",
           help="names of the sources in order, separated by commas",
           check=check_names),
    Option("device", MODELS, TEXT_OR_TEXTS, "a text, or one for each model", unset="cuda where there is one, else cpu",
           help="cpu, cuda, cuda:1 ...; separated by commas for one each",
           changes_answers=False, not_in_file=_MACHINE),
    Option("dtype", MODELS, TEXT_OR_TEXTS, "a text, or one for each model", unset="float32 on a CPU, else the checkpoint's",
           help="auto, float32, bfloat16 or float16; separated by commas for one each",
           not_in_file=_MACHINE),
    Option("trust_remote_code", MODELS, FLAG, "true or false", default=False,
           help="run code that comes with a checkpoint",
           changes_answers=False, not_in_file=_CONSENT),
    Option("lossy_ok", MODELS, FLAG, "true or false", default=False,
           help="accept tokenizers that cannot reproduce text",
           changes_answers=False, not_in_file=_CONSENT),
    Option("preset", FUSION, TEXT, "the name of a preset", unset="default",
           help="default, or paper for the published method",
           check=_part("preset"), said_by_default="default", segments_only="it names a way to judge segments"),
    Option("reranker", FUSION, TEXT, "the name of a reranker", unset=_PRESET,
           help="mean_nll, mean_perplexity, bits_per_byte, mixture, lead(NAME), or one of these inside of leave_one_out(...), "
           "calibrated(...), without_outliers(..., 10), weighted(..., NAME=2, ...)",
           check=_part("reranker"), segments_only="a mixture has no candidates to judge", matters=True, tried=("mean_nll", "mean_perplexity", "bits_per_byte", "mixture")),
    Option("weights", FUSION, WEIGHTS, "a table of source names with numbers above 0", unset="equal ones",
           help="weights of the sources: 1,2,1 in order or name=1,name=2",
           matters=True, tried=()),
    Option("lead", FUSION, TEXT, "the name of a source", unset="none",
           help="let this source alone judge the candidates",
           segments_only="it judges candidates, and a mixture has none; give weights instead", metavar="NAME"),
    Option("boundary", FUSION, TEXT, "the name of a boundary", unset=_PRESET,
           help="where drafts end: words, phrases(N), lines, sentences or whole_response",
           check=_part("boundary"), segments_only="a mixture decides every token or byte, not segments", matters=True, tried=("words", "phrases(3)", "sentences")),
    Option("end_rule", FUSION, TEXT, "the name of an end rule", unset=_PRESET,
           help="how the end is decided: joint_odds, majority_mass, token_contest or compete",
           check=_part("end_rule"), segments_only="the end is one more outcome of a mixture"),
    Option("gate", FUSION, NUMBER_OR_TEXT, "a number or the name of a gate", unset="none",
           help="commit the heaviest source's draft without a contest where its tokens' geometric-mean probability is at least P",
           check=_part("gate"), segments_only="there are no contests to do without", metavar="P", tried=(None, 0.9)),
    Option("budget", FUSION, COUNT_OR_TEXT, "a whole number of contests or tokens(N)", unset="none",
           help="at most N contests in a response, or tokens(N) scored tokens; after that the heaviest source goes on alone",
           check=_part("budget"), segments_only="there are no contests to count", metavar="N"),
    Option("prior", FUSION, TEXT, "prompt or prompt(TEMPERATURE)", unset="none",
           help="prompt or prompt(T): weights from how well sources predict the prompt, at temperature T",
           check=_part("prior"), metavar="prompt"),
    Option("hedge", FUSION, NUMBER, "a number, 0 or above", unset=0.0,
           help="learning rate by which a response updates the weights of sources (Hedge); 0 is none",
           check=_part("hedge"), segments_only="there are no contests to learn from", metavar="ETA"),
    Option("num_samples", FUSION, COUNT, "a whole number, at least 1", unset=1,
           help="drafts of each source in a step, where tokens are drawn",
           check=_part("num_samples"), segments_only="a mixture has no drafts", spellings=("--drafts",), metavar="N"),
    Option("scores", FUSION, TEXT, "tokens or bytes", unset="tokens",
           help="score segments by their tokens, or by bytes: whatever tokens write them",
           segments_only="there are no segments to score", metavar="WHAT"),
    Option("speculation", SPEED, FLAG, "true or false", default=True,
           help="sources guess ahead for one another, which is faster and changes no response",
           spellings=("--no-speculation",), changes_answers=False, not_in_file=_COST),
    Option("drafter", SPEED, TEXT, "a folder, GGUF file or hub id", unset="none",
           help="a small model that guesses ahead and takes no other part",
           segments_only="a mixture has no use for guesses", metavar="MODEL", changes_answers=False, not_in_file=_COST),
    Option("strategy", STRATEGY, TEXT, "segments or mixture", unset=SEGMENTS,
           help="segments, or mixture: the sources' distributions are mixed at every step",
           check=strategy_named, metavar="NAME", matters=True, not_in_harness=_NO_MIXTURE),
    Option("mixing", STRATEGY, TEXT, "the name of a mixing rule", unset="arithmetic",
           help="of a mixture: arithmetic, geometric, top_k_union or top_k_union(N)",
           check=mixing_named, mixture_only="it says how distributions are mixed", metavar="RULE", not_in_harness=_NO_MIXTURE),
    Option("route", STRATEGY, TEXT, "auto, tokens or bytes", unset="auto",
           help="of a mixture: auto, tokens for sources that share a vocabulary, or bytes",
           check=route_named, mixture_only="it says how a mixture walks through the text", metavar="NAME", not_in_harness=_NO_MIXTURE),
    Option("max_new_tokens", RESPONSE, COUNT, "a whole number, at least 1", default=256,
           help="limit of a response, in tokens of the source that needs fewest",
           check=_limit("max_new_tokens"), metavar="N", matters=True, not_in_file=_REQUEST, not_in_harness=_TASK),
    Option("max_segment_tokens", RESPONSE, COUNT, "a whole number, at least 1", unset="the boundary's own",
           help="cut a draft by force after N tokens",
           check=_limit("max_segment_tokens"), metavar="N", not_in_file=_REQUEST, not_in_harness=_NO_SETTING),
    Option("temperature", RESPONSE, NUMBER, "a number, 0 or above", default=0.0,
           help="0 is greedy; above 0 tokens are drawn",
           check=_limit("temperature"), metavar="T", matters=True, not_in_file=_REQUEST, not_in_harness=_TASK),
    Option("top_k", RESPONSE, COUNT, "a whole number, 0 or above", default=0,
           help="draw from the K likeliest tokens; 0 is all",
           check=_limit("top_k"), metavar="K", not_in_file=_REQUEST, not_in_harness=_TASK),
    Option("top_p", RESPONSE, NUMBER, "a number above 0 and at most 1", default=1.0,
           help="draw from the likeliest tokens that have this probability together",
           check=_limit("top_p"), metavar="P", not_in_file=_REQUEST, not_in_harness=_TASK),
    Option("seed", RESPONSE, COUNT, "a whole number, 0 or above", default=0,
           help="of the noise with which tokens are drawn",
           check=_limit("seed"), metavar="N", matters=True, not_in_file=_REQUEST, not_in_harness=_NO_SETTING),
    Option("stop", RESPONSE, TEXT_OR_TEXTS, "a text or a list of texts, none of them empty", default=(),
           help="end the response before this text",
           check=_limit("stop"), metavar="TEXT", repeats=True, matters=True, not_in_file=_REQUEST, not_in_harness=_TASK),
    Option("on_source_error", RESPONSE, TEXT, "drop or raise", default="drop",
           help="go on without a source that fails, or stop",
           check=_limit("on_source_error"), choices=("drop", "raise"), not_in_file=_REQUEST, not_in_harness=_NO_SETTING),
)
# fmt: on
BY_NAME: Final[Mapping[str, Option]] = {each.name: each for each in OPTIONS}


class ResponseOptions(TypedDict, total=False):
    """The options of a request, as keywords of the methods that generate."""

    max_new_tokens: int
    max_segment_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: str | Sequence[str]
    on_source_error: str


class FusionOptions(TypedDict, total=False):
    """The other options, as keywords of ``FusionModel.from_pretrained``. None: not said."""

    config: str | Path | FusionConfig | None
    names: Sequence[str] | None
    device: str | Sequence[str] | None
    dtype: str | Sequence[str] | None
    trust_remote_code: bool
    lossy_ok: bool
    preset: str | None
    reranker: str | Reranker | None
    weights: Mapping[str, float] | Sequence[float] | None
    lead: str | None
    boundary: str | Boundary | None
    end_rule: str | EndRule | None
    gate: str | float | Gate | None
    budget: str | int | Budget | None
    prior: str | PromptPrior | None
    hedge: float | None
    num_samples: int | None
    scores: str | None
    speculation: bool
    drafter: str | Path | None
    strategy: str | None
    mixing: str | MixingRule | None
    route: str | None


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """What a fusion file says. None and empty: not said, so the default holds.

    The fields are the options of the table that a file may say, with parts by their names.
    ``weights`` are by source name, positive, in any unit.
    """

    models: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    preset: str | None = None
    reranker: str | None = None
    lead: str | None = None
    boundary: str | None = None
    end_rule: str | None = None
    gate: str | float | None = None
    budget: str | int | None = None
    prior: str | None = None
    hedge: float | None = None
    num_samples: int | None = None
    scores: str | None = None
    strategy: str | None = None
    mixing: str | None = None
    route: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def said(self) -> dict[str, Any]:
        """The keys that have a value, in the order of the file; sequences are lists."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None and value not in ((), {})
        }


def options_of(*groups: str) -> tuple[Option, ...]:
    """The options of some groups, in the order of the table."""
    return tuple(each for each in OPTIONS if each.group in groups)


def resume_settings(said: Mapping[str, object]) -> dict[str, Any]:
    """Every option that changes an answer, as JSON has it, by name.

    ``said`` are options by name. One that is missing or None has its default, so that saying a
    default and saying nothing are the same. A run may go on where these agree.
    """
    settings = {}
    for each in OPTIONS:
        if each.changes_answers:
            value = said.get(each.name)
            default = each.unset if each.default is None else each.default
            settings[each.name] = plain(default if value is None else _number_of(each, value))
    return settings


def _number_of(option: Option, value: object) -> object:
    """The value, as a number where a text of the command line is one."""
    if option.kind in (NUMBER_OR_TEXT, COUNT_OR_TEXT) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
