"""Options that say whether segments are fused or distributions are mixed, and how.

Options that commands share: which models, how to fuse them, how far to go.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, TextIO

from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.decoding.request import Request
    from coolfusion.fusion import FusionModel


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """Options that say whether segments are fused or distributions are mixed."""
    group = parser.add_argument_group("strategy")
    group.add_argument(
        "--strategy",
        metavar="NAME",
        help="segments (default), or mixture: the sources' distributions are mixed at every step",
    )
    group.add_argument(
        "--mixing",
        metavar="RULE",
        help="of a mixture: arithmetic (default), geometric, top_k_union or top_k_union(N)",
    )
    group.add_argument(
        "--route",
        metavar="NAME",
        help="of a mixture: auto (default), tokens for sources that share a vocabulary, or bytes",
    )


def strategy_options(arguments: argparse.Namespace) -> dict[str, str | None]:
    """What the options say of the strategy; nothing for a command that has none."""
    return {key: getattr(arguments, key, None) for key in ("strategy", "mixing", "route")}


# Keys of a fusion file whose options have other names.
_OPTION_OF = {"models": "model"}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that name and load models."""
    group = parser.add_argument_group("models")
    group.add_argument(
        "-m",
        "--model",
        action="append",
        metavar="MODEL",
        help="folder or hub id of a source; repeat for more (default: the built-in sources)",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="a fusion file that says what these options would; those that are given replace its own",
    )
    group.add_argument("--names", help="comma-separated names of the sources, in order")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ...; comma-separated for one each")
    group.add_argument(
        "--dtype", help="auto, float32, bfloat16 or float16; comma-separated for one each"
    )
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with a checkpoint"
    )
    group.add_argument(
        "--lossy-ok", action="store_true", help="accept tokenizers that cannot reproduce text"
    )


def add_fusion_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how sources are fused."""
    group = parser.add_argument_group("fusion")
    group.add_argument(
        "--preset", default="default", help="default, or paper for the published method"
    )
    group.add_argument(
        "--reranker",
        help="mean_nll, mean_perplexity, bits_per_byte, mixture, lead(NAME), or one of these inside "
        "of leave_one_out(...), calibrated(...), without_outliers(..., 10), weighted(..., NAME=2, ...)",
    )
    group.add_argument("--weights", help="weights of the sources: 1,2,1 in order or name=1,name=2")
    group.add_argument("--lead", metavar="NAME", help="let this source alone judge the candidates")
    group.add_argument("--boundary", help="words, phrases(n), lines, sentences or whole_response")
    group.add_argument("--end-rule", help="joint_odds, majority_mass, token_contest or compete")
    group.add_argument(
        "--gate",
        metavar="P",
        help="commit the heaviest source's draft without a contest where its tokens' geometric-mean "
        "probability is at least P",
    )
    group.add_argument(
        "--budget",
        metavar="N",
        help="at most N contests in a response, or tokens(N) scored tokens; after that the heaviest "
        "source goes on alone",
    )
    group.add_argument(
        "--prior",
        metavar="prompt",
        help="prompt or prompt(T): weights from how well sources predict the prompt, at temperature T",
    )
    group.add_argument(
        "--hedge",
        type=float,
        metavar="ETA",
        help="learning rate by which a response updates the weights of sources (Hedge; 0: none)",
    )
    group.add_argument(
        "--drafts",
        dest="num_samples",
        type=int,
        metavar="N",
        help="drafts of each source in a step, if it samples (--samples of eval is about votes)",
    )
    group.add_argument(
        "--scores",
        metavar="WHAT",
        help="score segments by their tokens (default), or by bytes: whatever tokens write them",
    )
    _add_guessing(group)


def _add_guessing(group: argparse._ArgumentGroup) -> None:
    """Options that change what a response costs, and nothing else."""
    group.add_argument(
        "--no-speculation",
        dest="speculation",
        action="store_false",
        help="let no source guess ahead for the others; slower, with the same output",
    )
    group.add_argument(
        "--drafter",
        metavar="MODEL",
        help="a small model that guesses ahead and takes no other part",
    )


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Options that bound and colour a response."""
    group = parser.add_argument_group("response")
    group.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    group.add_argument(
        "--max-segment-tokens", type=int, metavar="N", help="cut a draft by force after N tokens"
    )
    group.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)"
    )
    group.add_argument("--top-k", type=int, default=0, metavar="K")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; repeatable"
    )
    group.add_argument("--on-source-error", choices=("drop", "raise"), default="drop")


def load_fusion(arguments: argparse.Namespace) -> FusionModel:
    """The fusion that the options describe; a terminal is shown how far loading has come."""
    from coolfusion.config.options import check_fusion_options
    from coolfusion.config.strategies import MIXTURE, check_segments_options
    from coolfusion.fusion import FusionModel

    names = split_list(arguments.names)
    options = {**recipe_options(arguments), **strategy_options(arguments)}
    if options["strategy"] != MIXTURE:
        check_segments_options(options)
    check_fusion_options(arguments.model, names, drafter=arguments.drafter, **options)
    bar = Progress("loading", sys.stderr)
    quiet_transformers()
    fusion = FusionModel.from_pretrained(
        arguments.model,
        names=names,
        device=_one_or_list(arguments.device),
        dtype=_one_or_list(arguments.dtype),
        trust_remote_code=arguments.trust_remote_code,
        lossy_ok=arguments.lossy_ok,
        speculation=arguments.speculation,
        drafter=arguments.drafter,
        progress=lambda name, done, total: bar.show(done, total, name),
        **options,
    )
    bar.clear()
    return fusion


def recipe_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the recipe, by keywords of ``check_recipe_options``."""
    return {
        "preset": arguments.preset,
        "reranker": arguments.reranker,
        "weights": parse_weights(arguments.weights),
        "lead": arguments.lead,
        "boundary": arguments.boundary,
        "end_rule": arguments.end_rule,
        "gate": arguments.gate,
        "budget": arguments.budget,
        "prior": arguments.prior,
        "hedge": arguments.hedge,
        "num_samples": arguments.num_samples,
        "scores": arguments.scores,
    }


def request_of(arguments: argparse.Namespace) -> Request:
    """The request that the options describe. Raises ``UsageError`` for impossible limits."""
    from coolfusion.decoding.request import request

    return request(
        max_new_tokens=arguments.max_new_tokens,
        stop=arguments.stop,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        max_segment_tokens=arguments.max_segment_tokens,
        on_source_error=arguments.on_source_error,
    )


def file_defaults(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What a fusion file puts in the place of options that were not given, by their names here.

    The file is that of ``--config``, or a single ``-m`` that is one. None: there is no file.
    """
    from coolfusion.config.file import fusion_file_among, settled_options
    from coolfusion.config.strategies import MIXTURE

    if not hasattr(arguments, "config"):
        return None
    if arguments.config is None and fusion_file_among(arguments.model) is None:
        return None
    keys = ("reranker", "weights", "lead", "strategy")
    given = {key: getattr(arguments, key, None) for key in keys}
    settled = settled_options(arguments.model, arguments.config, **given)
    about_segments = hasattr(arguments, "reranker") and not hasattr(arguments, "strategy")
    if settled.get("strategy") == MIXTURE and about_segments:
        raise UsageError(
            f'The fusion file has the strategy "{MIXTURE}", and coolfusion {arguments.command} is about '
            "segments. Leave the key out of the file, or use generate or eval."
        )
    settled.setdefault("models", None)
    named = {_OPTION_OF.get(key, key): value for key, value in settled.items()}
    return {key: value for key, value in named.items() if hasattr(arguments, key)}


def parse_weights(
    text: str | dict[str, float] | None,
) -> dict[str, float] | list[float] | None:
    """Weights written as ``1,2,1`` or ``name=1,name=2``, or as a fusion file has them."""
    if text is None or isinstance(text, dict):
        return text
    parts = [part.strip() for part in text.split(",")]
    try:
        if all("=" in part for part in parts):
            return {part.rpartition("=")[0]: float(part.rpartition("=")[2]) for part in parts}
        return [float(part) for part in parts]
    except ValueError:
        raise UsageError(
            f'--weights is "{text}"; write numbers as 1,2,1 or name=1,name=2.'
        ) from None


def split_list(text: str | list[str] | None) -> list[str] | None:
    """Comma-separated words, or the list of a fusion file, or None where nothing was given."""
    return [part.strip() for part in text.split(",")] if isinstance(text, str) else text


def quiet_transformers() -> None:
    """Keep the library's own progress bars and advice off the terminal."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


class Progress:
    """A counter that rewrites itself on a terminal and is silent elsewhere."""

    def __init__(self, verb: str, stream: TextIO) -> None:
        self._verb = verb
        self._stream = stream
        self._shown = stream.isatty()

    def show(self, done: int, total: int, what: str = "") -> None:
        """Show that ``done`` of ``total`` are finished and ``what`` is under way."""
        if self._shown and total:
            filled = "#" * (20 * done // total)
            self._stream.write(f"\r\x1b[K{self._verb} [{filled:<20}] {done}/{total} {what}")
            self._stream.flush()

    def clear(self) -> None:
        """Take the counter away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _one_or_list(text: str | None) -> str | list[str] | None:
    parts = split_list(text)
    return parts[0] if parts is not None and len(parts) == 1 else parts
