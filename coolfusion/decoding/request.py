"""How far one response may go, and how its tokens are picked."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from typing import TypeAlias, TypeVar

from coolfusion.backends.sampling import GREEDY, Sampling
from coolfusion.checks.arguments import check_setting, checked, checked_fields
from coolfusion.errors import UsageError

Item = TypeVar("Item")

# How many tokens of one source may stand for one of another. It ends only what would not end:
# a tokenizer that loses white space does not count it.
STRETCH = 32
SEED_BITS = 256  # each source has noise of its own, whose seed is longer


@dataclass(frozen=True, slots=True)
@checked_fields
class Request:
    """Limits of one response, and how its tokens are picked.

    A response ends where it has ``max_new_tokens`` tokens of every source. So the source that
    needs fewest decides, and no response is shorter than a source alone would give.
    ``max_segment_tokens`` overrides the boundary's own cap. A source that fails is dropped
    and the others go on (``on_source_error="drop"``), or the failure is raised ("raise").
    """

    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    max_segment_tokens: int | None = None
    on_source_error: str = "drop"

    @property
    def most_tokens(self) -> int:
        """How many tokens a response may have of any source, however few others need."""
        return STRETCH * self.max_new_tokens

    def __post_init__(self) -> None:
        check_setting(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        check_setting(
            self.max_segment_tokens is None or self.max_segment_tokens >= 1,
            "max_segment_tokens",
            self.max_segment_tokens,
            "at least 1, or None for the boundary's own cap",
        )
        check_setting(all(self.stop), "stop", self.stop, "made of strings that are not empty")
        check_setting(
            self.on_source_error in ("drop", "raise"),
            "on_source_error",
            self.on_source_error,
            '"drop" or "raise"',
        )
        seed = self.sampling.seed
        check_setting(seed.bit_length() <= SEED_BITS, "seed", seed, f"of {SEED_BITS} bits at most")


# How far several responses may go: all alike, or one request for each.
Requests: TypeAlias = Request | Sequence[Request] | None


def requests_for(
    prompts: Iterable[Item], requests: Requests
) -> Iterable[tuple[Item, Request | None]]:
    """Each prompt with its request. Raises ``UsageError`` for too few or too many requests."""
    if requests is None or isinstance(requests, Request):
        return zip(prompts, repeat(requests), strict=False)
    return _paired(prompts, requests)


def _paired(
    prompts: Iterable[Item], requests: Sequence[Request]
) -> Iterator[tuple[Item, Request | None]]:
    number = 0
    for number, prompt in enumerate(prompts, 1):
        if number > len(requests):
            break
        yield prompt, requests[number - 1]
    if number != len(requests):
        side = "shorter" if number > len(requests) else "longer"
        raise UsageError(
            f"request has {len(requests)} entries and is {side} than the prompts. Give one each, or one "
            "request for all."
        )


@checked
def request(
    *,
    max_new_tokens: int = 256,
    stop: str | Sequence[str] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    max_segment_tokens: int | None = None,
    on_source_error: str = "drop",
) -> Request:
    """A ``Request`` from the keyword arguments that generation methods take."""
    return Request(
        max_new_tokens=max_new_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        sampling=Sampling(temperature, top_k, top_p, seed),
        max_segment_tokens=max_segment_tokens,
        on_source_error=on_source_error,
    )


def sampling_of(request: Request, name: str, sample: int = 0) -> Sampling:
    """The request's sampling with noise that is the source ``name``'s own, another per ``sample``."""
    if request.sampling.is_greedy:
        return request.sampling
    return _own_sampling(request.sampling, name, sample)


@lru_cache(maxsize=1024)  # every step asks again, and a new one is checked whenever it is made
def _own_sampling(sampling: Sampling, name: str, sample: int) -> Sampling:
    own = name if not sample else f"{name}\0{sample}"
    return replace(sampling, seed=sampling.seed << 32 | zlib.crc32(own.encode()))
