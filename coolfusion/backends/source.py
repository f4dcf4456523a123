"""A source: a named model with its tokenizer, and checks of several of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from coolfusion.backends.base import Backend, DistributionBackend
from coolfusion.checks.arguments import checked_fields
from coolfusion.documents import shown
from coolfusion.errors import PromptError, UncopyableError, UsageError
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.prompts import Prompt, check_prompt_names, prompt_for


@dataclass(frozen=True, slots=True)
@checked_fields
class Source:
    """One model of a fusion, with its tokenizer; ``name`` labels it in every trace."""

    name: str
    tokenizer: Tokenizer
    backend: Backend

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {type(self.tokenizer).__name__}, {self.backend!r})"

    def __reduce__(self) -> NoReturn:
        raise UncopyableError(
            f'The Source "{self.name}" cannot be pickled or copied, since it holds a model and caches. '
            "Load it in each process."
        )


def check_names(names: Sequence[str]) -> None:
    """Raise ``UsageError`` unless there is at least one name and all are distinct."""
    if not names:
        raise UsageError("There is no source to decode with. Name at least one model.")
    if len(set(names)) != len(names):
        raise UsageError(
            f"Sources must have distinct names, got {list(names)}. Names label the columns of every trace."
        )


def check_limits(sources: Sequence[Source]) -> None:
    """Raise ``UsageError`` for sizes that a backend cannot have."""
    for source in sources:
        for name, is_needed in (("vocab_size", True), ("context_length", False)):
            value = getattr(source.backend, name)
            if not (_is_whole(value) and value >= 1) and (is_needed or value is not None):
                raise UsageError(
                    f'The backend of source "{source.name}" has {name} {value!r}. It must be a whole '
                    f"number of at least 1{'' if is_needed else ', or None for no limit'}."
                )


def check_end_ids(sources: Sequence[Source]) -> None:
    """Raise ``UsageError`` for a tokenizer whose end ids are no collection of whole numbers.

    Ids that the backend does not have are left alone: they are never drawn.
    """
    for source in sources:
        ends = source.tokenizer.end_ids
        is_right = isinstance(ends, Collection) and not isinstance(ends, (str, bytes))
        if not is_right or not all(map(_is_whole, ends)):
            raise UsageError(
                f'The tokenizer of source "{source.name}" has end_ids {shown(ends)}. They must be '
                "a set of whole numbers, the ids that end a response."
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_byte_faithful(sources: Sequence[Source], done: str) -> None:
    """Raise ``UsageError`` unless all sources can give exact byte probabilities.

    A source must have a tokenizer that keeps ordinary texts, and whole next-token distributions.
    The message names the first source without them. ``done`` is a participle for it, such as
    "mixed".
    """
    for source in sources:
        rare = getattr(source.tokenizer, "rare_losses", ())
        losses = [each for each in getattr(source.tokenizer, "losses", ()) if each not in rare]
        if losses:
            raise UsageError(
                f'Source "{source.name}" cannot be {done}: its tokenizer loses {"; ".join(losses)}, '
                "so that its tokens do not stand for the bytes of a text. Leave it out."
            )
        if not isinstance(source.backend, DistributionBackend):
            raise UsageError(
                f'Source "{source.name}" cannot be {done}: its backend, {type(source.backend).__name__}, '
                "gives no whole next-token distributions (it has no method distributions). Fuse it by "
                "segments scored by tokens, or leave it out."
            )


def encoded_prompts(sources: Sequence[Source], prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """Every source's ids of its own prompt, with room for at least one more token.

    Raises ``PromptError`` for a prompt that is empty or too long for a source, and for names that
    belong to no source.
    """
    check_prompt_names(prompt, [source.name for source in sources])
    encoded = []
    for source in sources:
        try:
            ids = source.tokenizer.encode_prompt(prompt_for(prompt, source.name))
        except PromptError as error:
            raise PromptError(f'Source "{source.name}": {error}') from error
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
