"""The seam to a tokenizer: text to ids and ids to bytes, always as part of a longer text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from coolfusion.tokenization.prompts import OwnPrompt


class Tokenizer(Protocol):
    """The interface of a tokenizer to alignment, drafting and scoring.

    Laws, checked by ``coolfusion.testing.check_tokenizer``:

    - The pieces of ``encode(text)`` join to the text, up to Unicode normalisation form C.
    - ``encode`` never gives an end id, whatever the text contains.
    - Equal texts give equal ids.
    """

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a response."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` as in the middle of a longer text, without special tokens."""
        ...

    def piece(self, token_id: int) -> bytes | None:
        """The bytes a token adds to a text; None for a control token, which adds none."""
        ...

    def encode_prompt(self, prompt: OwnPrompt) -> tuple[int, ...]:
        """Ids of a raw prompt or of chat messages, with their special tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Settled:
    """A position in a text from which its encoding goes on alone, whatever follows.

    What comes from there is the encoding of ``lead`` and of the text after the position, without
    the first ``num_skipped`` ids.
    """

    position: int
    lead: str = ""
    num_skipped: int = 0


class SettlingTokenizer(Tokenizer, Protocol):
    """A tokenizer that knows which ids of a text no later text can change.

    Without this, a response is encoded as a whole at every step.
    """

    def settled(self, lead: str, text: str) -> Iterable[Settled]:
        """Settled positions in ``text``, which is encoded after ``lead``; the first are the best.

        One is used only if what comes from it ends the ids of the known text. Law: then it does so
        for every text that goes on, and the ids before it stay.
        """
        ...


def pieces_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of ``ids``; control tokens add nothing and broken UTF-8 becomes U+FFFD."""
    return b"".join(tokenizer.piece(i) or b"" for i in ids).decode("utf-8", "replace")
