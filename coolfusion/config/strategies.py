"""The two ways to fuse by name, and which options make sense for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from coolfusion.errors import UsageError

SEGMENTS: Final = "segments"
MIXTURE: Final = "mixture"
STRATEGIES: Final = (SEGMENTS, MIXTURE)


# Options of one strategy that mean nothing to the other, by keyword.
SEGMENTS_ONLY: Final[Mapping[str, str]] = {
    "preset": "it names a way to judge segments",
    "reranker": "a mixture has no candidates to judge",
    "lead": "it judges candidates, and a mixture has none; give weights instead",
    "boundary": "a mixture decides every token or byte, not segments",
    "end_rule": "the end is one more outcome of a mixture",
    "gate": "there are no contests to do without",
    "budget": "there are no contests to count",
    "hedge": "there are no contests to learn from",
    "num_samples": "a mixture has no drafts",
    "scores": "there are no segments to score",
    "drafter": "a mixture has no use for guesses",
}
MIXTURE_ONLY: Final[Mapping[str, str]] = {
    "mixing": "it says how distributions are mixed",
    "route": "it says how a mixture walks through the text",
}
DEFAULT_PRESET: Final = "default"  # names no way of its own, and says nothing of the strategy


def strategy_named(name: str) -> str:
    """The strategy of that name. Raises ``UsageError`` for one that does not exist."""
    if name not in STRATEGIES:
        raise UsageError(f'There is no strategy "{name}". Choose one of {", ".join(STRATEGIES)}.')
    return name


def check_mixture_options(options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` naming an option, by keyword, that is given but is about segments."""
    for key, why in SEGMENTS_ONLY.items():
        value = options.get(key)
        if value is not None and (key, value) != ("preset", DEFAULT_PRESET):
            raise UsageError(
                f'{key} is {value!r} and the strategy "{MIXTURE}", but {why}. Leave it out, or use '
                f'the strategy "{SEGMENTS}".'
            )


def check_segments_options(options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` naming an option, by keyword, that is given but is about mixtures."""
    for key, why in MIXTURE_ONLY.items():
        if options.get(key) is not None:
            raise UsageError(
                f"{key} is {options[key]!r}, but {why}, and nothing is mixed here. Leave it out, or "
                f'use the strategy "{MIXTURE}".'
            )
