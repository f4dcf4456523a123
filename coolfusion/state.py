"""A response in progress, as the decoder hands it from step to step."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coolfusion.backend import Sampling
from coolfusion.errors import PromptError
from coolfusion.recipe import Request
from coolfusion.reranking import Tally
from coolfusion.sources import Source
from coolfusion.tokenization.canonical import Canonical
from coolfusion.tokenization.prompts import Prompt, check_prompt_names, prompt_for
from coolfusion.types import StopReason


@dataclass(frozen=True, slots=True)
class State:
    """A response in progress.

    ``prompts`` and ``encoded`` have one entry per source of the decoder; ``active`` indexes
    the sources that still take part. ``num_shown`` characters of ``text`` have been emitted.
    ``lane`` tells responses apart in caches; nothing else depends on it (None: nothing is
    remembered between steps).

    What the response has taught of the sources has one entry per source of the decoder too,
    or none yet: ``log_weights``, the logarithms of weights that sum to 1 (none: equal), and
    ``tallies``. ``num_contests`` steps had sources score, which took ``num_scored`` tokens.
    """

    request: Request
    prompt: Prompt
    prompts: tuple[tuple[int, ...], ...]
    encoded: tuple[Canonical, ...]
    active: tuple[int, ...]
    lane: int | None
    text: str = ""
    num_shown: int = 0
    num_steps: int = 0
    stop_reason: StopReason | None = None
    stop_string: str | None = None
    any_failed: bool = False
    log_weights: tuple[float, ...] = ()
    tallies: tuple[Tally, ...] = ()
    num_contests: int = 0
    num_scored: int = 0


def encoded_prompts(sources: Sequence[Source], prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """Every source's ids of its own prompt, with room for at least one more token.

    Raises ``PromptError`` for a prompt that some source cannot take, and for names in it that
    are not the sources'.
    """
    check_prompt_names(prompt, [source.name for source in sources])
    encoded = []
    for source in sources:
        ids = source.tokenizer.encode_prompt(prompt_for(prompt, source.name))
        limit = source.backend.context_length
        if not ids:
            raise PromptError(
                f'The prompt has no tokens for source "{source.name}". Give some text.'
            )
        if limit is not None and len(ids) >= limit:
            raise PromptError(
                f'The prompt has {len(ids)} tokens for source "{source.name}", whose context window '
                f"holds {limit}. Shorten the prompt or leave that source out."
            )
        encoded.append(ids)
    return tuple(encoded)


def sampling_of(request: Request, name: str, sample: int = 0) -> Sampling:
    """The request's sampling with noise that is the source ``name``'s own, another per ``sample``."""
    if request.sampling.is_greedy:
        return request.sampling
    own = name if not sample else f"{name}\0{sample}"
    seed = request.sampling.seed << 32 | zlib.crc32(own.encode())
    return replace(request.sampling, seed=seed)
