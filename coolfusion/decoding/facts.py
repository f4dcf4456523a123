"""Facts about one growing text: what a model has said after each of its tokens, and of branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

REACH = 64  # tokens before the end of a text about which answers are kept


@dataclass(frozen=True, slots=True)
class Pick:
    """What a model says after a token: its choice, its log-probability, the watched ids' total."""

    token: int
    log_prob: float
    watched: float


@dataclass(slots=True)
class Fact:
    """What is known of a text that ends here. ``log_prob`` is that of its last token."""

    pick: Pick | None = None
    log_prob: float | None = None
    after: dict[int, Fact] = field(default_factory=dict)

    @property
    def picks(self) -> list[Pick]:
        """The model's own picks that are known, one after another."""
        picks: list[Pick] = []
        fact: Fact | None = self
        while fact is not None and fact.pick is not None:
            picks.append(fact.pick)
            fact = fact.after.get(fact.pick.token)
        return picks

    def along(self, ids: Sequence[int]) -> tuple[list[Pick], list[float], Fact]:
        """The picks before ``ids`` and their log-probabilities, as far as both are known.

        Last comes what is known there.
        """
        fact, picks, log_probs = self, [], []
        for token in ids:
            after = fact.after.get(token)
            if fact.pick is None or after is None or after.log_prob is None:
                break
            picks.append(fact.pick)
            log_probs.append(after.log_prob)
            fact = after
        return picks, log_probs, fact


@dataclass(slots=True)
class Text:
    """Facts about a text and its branches, ``base`` tokens of it left behind."""

    base: tuple[int, ...] = ()
    root: Fact = field(default_factory=Fact)
    last: tuple[tuple[int, ...], Fact] | None = None

    def at(self, ids: tuple[int, ...]) -> Fact:
        """What is known after ``ids``; the beginning is left behind as the text grows."""
        if self.last is not None and ids[: len(self.last[0])] == self.last[0]:
            fact = walk(self.last[1], ids[len(self.last[0]) :])
        else:
            if ids[: len(self.base)] != self.base:
                self.base, self.root = ids[:-REACH], Fact()
            fact = walk(self.root, ids[len(self.base) :])
        if len(ids) - len(self.base) > 2 * REACH:
            self.root = walk(self.root, ids[len(self.base) : -REACH])
            self.base = ids[:-REACH]
        self.last = (ids, fact)
        return fact

    def peek(self, ids: tuple[int, ...]) -> Fact:
        """The same, which changes nothing: what is not known is ``NOTHING_KNOWN``."""
        fact: Fact | None = self.root if ids[: len(self.base)] == self.base else None
        for token in ids[len(self.base) :]:
            fact = None if fact is None else fact.after.get(token)
        return fact or NOTHING_KNOWN

    @property
    def is_new(self) -> bool:
        """Whether nothing is known of it."""
        return self.root.pick is None and not self.root.after


NOTHING_KNOWN = Fact()


def walk(fact: Fact, ids: Sequence[int]) -> Fact:
    """What is known some tokens later."""
    for token in ids:
        fact = step(fact, token)
    return fact


def step(fact: Fact, token: int) -> Fact:
    """What is known one token later."""
    after = fact.after.get(token)
    if after is None:
        after = fact.after[token] = Fact()
    return after
