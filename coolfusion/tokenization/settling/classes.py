"""Characters that a pre-tokenizer does not tell apart.

A pattern looks at a character only through the sets in it, and a component that cuts between two
characters only through a few classes. So what is tried with one character holds for all of which
every stage tells the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import final

import tokenizers

from coolfusion.tokenization.settling.normalizing import spec_of
from coolfusion.tokenization.settling.patterns import NotFollowed
from coolfusion.tokenization.settling.stages import PreTokenizing, flat, stages_of


@final
class CharacterClasses:
    """Classes of characters that are cut alike where one stands after one of ``ends``."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, ends: Sequence[str]) -> None:
        self._stages: list[PreTokenizing] | None = None  # then each character is a class
        spec = spec_of(tokenizer.pre_tokenizer)
        kinds = [part["type"] for part in flat(spec, "pretokenizers")]
        # What comes after ByteLevel, as in Falcon, sees bytes in place of characters.
        if "ByteLevel" not in kinds[:-1]:
            with suppress(NotFollowed):
                self._stages = stages_of(spec)
        self._normalizer = tokenizer.normalizer
        self._ends = [(end, self._normal(end)) for end in ends]

    def of(self, character: str) -> Hashable:
        """The class of a character."""
        if self._stages is None or not self._is_inert(character):
            return character
        return tuple(stage.tells(character) for stage in self._stages)

    def _is_inert(self, character: str) -> bool:
        """Whether normalisation leaves it, and what stands before it, alone."""
        return self._normalizer is None or all(
            self._normal(end + character) == normal + character for end, normal in self._ends
        )

    def _normal(self, text: str) -> str:
        normal: str = text if self._normalizer is None else self._normalizer.normalize_str(text)
        return normal
