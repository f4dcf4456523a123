"""A guess of the coming text: where it stands and how far it held."""

from __future__ import annotations

from dataclasses import dataclass

KEY = 12  # characters that must have been seen before for a look-up


@dataclass(frozen=True, slots=True)
class Guess:
    """``text`` that may follow the first ``start`` characters of a response.

    ``ends`` says that the response is guessed to end after it. ``num_tokens`` is its length
    in the guesser's tokens.
    """

    start: int
    text: str
    ends: bool
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


def look_up(text: str, num_chars: int) -> str:
    """What followed the last words of ``text`` when they were last said in it.

    At most ``num_chars`` characters; empty where they are new. The published name is prompt
    look-up decoding.
    """
    key = text[-KEY:]
    place = text.rfind(key, 0, len(text) - 1) if len(key) == KEY else -1
    return "" if place < 0 else text[place + KEY : place + KEY + num_chars]
