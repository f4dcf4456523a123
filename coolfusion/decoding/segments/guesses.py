"""What may be said next, and how far it can be relied on.

Nothing here decides a text; it only decides what is worth computing early. How often a guess
holds depends most on how sure its author is. Of two small models, a word that one gives more than
0.9 is nearly always committed, and one below 0.5 about every other time. Drafts that end where
their author is in doubt are from Kangaroo (arXiv 2404.18911). To weigh the doubt by measured
rates is our own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

_KEEP = 0.98  # weight that an earlier observation keeps when a new one of its kind arrives
_RETURN = 0.02  # share of the way back to the prior, at each step that says nothing
_PRIOR = 2.0  # observations that the prior counts as
_EDGES = (0.5, 0.7, 0.9)  # between the classes of probabilities
# Between what was measured on pairs of small models that disagree on every other segment and on
# copies that agree. A few observations outweigh it.
_BELIEVED = (0.65, 0.8, 0.9, 0.98)


@dataclass(slots=True)
class Rate:
    """How often something proves true; ``prior`` is what is believed at first."""

    prior: float
    _right: float = field(init=False)
    _all: float = field(default=_PRIOR, init=False)

    def __post_init__(self) -> None:
        self._right = self.prior * _PRIOR

    @property
    def mean(self) -> float:
        """The share, a number from 0 to 1."""
        return self._right / self._all

    def observe(self, *, held: bool) -> None:
        """Learn from one case."""
        # Invariant: both sums have the same weights, so the mean stays between 0 and 1.
        self._right = _KEEP * self._right + held
        self._all = _KEEP * self._all + 1.0

    def forget(self) -> None:
        """Return towards the prior a little, so that what once failed is tried again."""
        self._right += _RETURN * (self.prior * _PRIOR - self._right)
        self._all += _RETURN * (_PRIOR - self._all)


@dataclass(slots=True)
class Trust:
    """How often the token is committed that an author would write next.

    ``at`` says so by the probability that the author gives it, ``mean`` for tokens to come.
    ``rival`` is for a word against which a source would offer another. ``whole`` is how often the
    first token of such a word is all of its segment.
    """

    rival: Rate = field(default_factory=lambda: Rate(0.5))
    whole: Rate = field(default_factory=lambda: Rate(0.7))
    _rates: list[Rate] = field(default_factory=lambda: [Rate(prior) for prior in _BELIEVED])
    _any: Rate = field(default_factory=lambda: Rate(_BELIEVED[1]))

    @property
    def mean(self) -> float:
        """The share of all tokens that are committed."""
        return self._any.mean

    def at(self, probability: float) -> float:
        """The share of those that the author gives about this probability."""
        return self._rates[bisect_right(_EDGES, probability)].mean

    def observe(self, probability: float, *, held: bool) -> None:
        """Learn whether a token was committed where its author would have written it."""
        self._rates[bisect_right(_EDGES, probability)].observe(held=held)
        self._any.observe(held=held)

    def forget(self) -> None:
        """Return towards what is believed at first, where nothing is learnt."""
        for rate in (self.rival, self.whole, self._any, *self._rates):
            rate.forget()


# What an author would say next: the bytes of every token, and the probability that the author gives it.
Words: TypeAlias = Sequence[tuple[bytes, float]]


@dataclass(frozen=True, slots=True)
class Saying:
    """What somebody would say next, as far as it can be believed, token by token.

    ``ends`` are where its tokens end, in bytes. ``reach`` has for each the probability that the
    response says everything up to there. ``is_contested`` says that a source would say something
    else in place of its first token. ``whole`` is the probability that its last segment is complete.
    """

    text: str = ""
    ends: tuple[int, ...] = ()
    reach: tuple[float, ...] = ()
    is_contested: bool = False
    whole: float = 1.0

    def reach_at(self, num_bytes: int) -> float:
        """The probability that the response says so many bytes of it, whole tokens of its own."""
        return 1.0 if num_bytes <= 0 else self.reach[bisect_right(self.ends, num_bytes - 1)]


def saying(words: Words, trust: Trust, others: Sequence[bytes]) -> Saying:
    """What an author says, believed as far as ``trust`` and what all ``others`` say next allow."""
    data = b"".join(piece for piece, _ in words)
    alike = [(common_bytes(data, other), len(other)) for other in others]
    ends: list[int] = []
    reach: list[float] = []
    end, running = 0, 1.0
    for piece, probability in words:
        begin, end = end, end + len(piece)
        # Subtle: an author whose words ran out within this token has not said anything else.
        if any(begin <= same < min(end, length) for same, length in alike):
            running *= trust.rival.mean
        # What all would say is sure. One that ran out of known words, or that would say something
        # else further left, tells nothing here.
        elif not alike or any(same < end for same, _ in alike):
            running *= trust.at(probability)
        ends.append(end)
        reach.append(running)
    is_contested = bool(ends) and any(same < min(ends[0], length) for same, length in alike)
    return Saying(complete_text(data), tuple(ends), tuple(reach), is_contested, trust.whole.mean)


def expected_tokens(rate: float, length: int) -> float:
    """Expected tokens of a guess of ``length``: those that hold, and the one after them.

    With acceptance ``a`` per token this is (1 - a**length) / (1 - a), equation (1) of
    arXiv 2211.17192 for ``length - 1`` guessed tokens.
    """
    return float(length) if rate >= 1.0 else (1.0 - rate**length) / (1.0 - rate)


def complete_text(data: bytes) -> str:
    """The characters at the beginning of ``data``, up to a broken or an unfinished one."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].decode()


def common_bytes(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with alike."""
    end = min(len(one), len(other))
    if one[:end] == other[:end]:
        return end
    return next(i for i in range(end) if one[i] != other[i])


# Bytes that must have been seen before for a look-up. Shorter keys match by chance; longer ones
# miss what changed a word ago. In bytes, since one character of some scripts says as much as
# three letters do.
KEY = 12


def look_up(text: str, num_chars: int) -> str:
    """What followed the last words of ``text`` when they were last said in it.

    At most ``num_chars`` characters; empty where they are new. The published name is prompt
    look-up decoding.
    """
    key = _key(text)
    # Subtle: the bound excludes the key's own place only. An earlier one may overlap it, as in
    # "ababab", where what follows is the rest of the repetition.
    place = text.rfind(key, 0, len(text) - 1) if key else -1
    return "" if place < 0 else text[place + len(key) : place + len(key) + num_chars]


def _key(text: str) -> str:
    """The shortest end of ``text`` that has ``KEY`` bytes; empty where it has fewer."""
    for length in range(1, KEY + 1):
        if len(text[-length:].encode(errors="replace")) >= KEY:
            return text[-length:]
    return ""
