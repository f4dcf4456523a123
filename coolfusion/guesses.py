"""A guess of the coming text: where it stands, who agrees with it, and how far it held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coolfusion.tokenizer import Tokenizer

KEY = 12  # characters that must have been seen before for a look-up


@dataclass(frozen=True, slots=True)
class Guess:
    """``text`` that may follow the first ``start`` characters of a response.

    ``cuts`` are where segments may end and ``forks``, per source, where its own next token
    is another one (all count characters of the response). ``ends`` says that the response
    is guessed to end after it. ``num_tokens`` is its length in the drafter's tokens.
    """

    start: int
    text: str
    ends: bool
    cuts: tuple[int, ...]
    forks: Mapping[int, tuple[int, ...]]
    num_tokens: float

    @property
    def end(self) -> int:
        """Where in the response it would end."""
        return self.start + len(self.text)

    def num_right(self, response: str) -> int:
        """How many of its characters the response has confirmed."""
        said = response[self.start : self.end]
        if self.text.startswith(said):
            return len(said)
        return next(
            i for i, (one, other) in enumerate(zip(said, self.text, strict=False)) if one != other
        )

    def failed(self, response: str) -> bool:
        """Whether the response says something else."""
        return self.start + self.num_right(response) < min(len(response), self.end)

    def remains(self, response: str) -> bool:
        """Whether there is something left of it that may still come true."""
        is_over = len(response) > self.end or (len(response) == self.end and not self.ends)
        return not is_over and not self.failed(response)

    def is_agreed(self, response: str, active: Sequence[int]) -> bool:
        """Whether all ``active`` sources would write its next segment themselves."""
        if not self.remains(response):
            return False
        begin = len(response)
        cut = next((cut for cut in self.cuts if cut > begin), self.end + 1)
        return all(
            k in self.forks and not any(begin <= fork < cut for fork in self.forks[k])
            for k in active
        )


def forks(
    text: str, ids: Sequence[int], picks: Sequence[int], tokenizer: Tokenizer
) -> tuple[int, ...]:
    """Positions in ``text`` (characters) at which a source would pick another token.

    ``ids`` encode the text and ``picks`` has one entry for each of them.
    """
    found = []
    data = text.encode("utf-8")
    num_bytes = 0
    for token, pick in zip(ids, picks, strict=False):
        if token != pick:
            found.append(len(data[:num_bytes].decode("utf-8", "ignore")))
        num_bytes += len(tokenizer.piece(token) or b"")
    return tuple(found)


def look_up(text: str, num_chars: int) -> str:
    """What followed the last words of ``text`` when they were last said in it.

    At most ``num_chars`` characters; empty where they are new. The published name is prompt
    look-up decoding.
    """
    key = text[-KEY:]
    place = text.rfind(key, 0, len(text) - 1) if len(key) == KEY else -1
    return "" if place < 0 else text[place + KEY : place + KEY + num_chars]
