"""Which token sequences a text may be the beginning of, and how likely a model finds each.

A *cover* of the bytes ``s`` is a sequence of complete tokens ``h`` that spells a beginning of
``s``, followed by one token that is being written: any that begins with the rest. What a model
with next-token probabilities ``p`` says of the bytes is the sum over their covers,

    F(s) = sum_h p(h) * sum_{t begins with s after h} p(t | h)

The complete tokens must be canonical: a beginning of ``encode(text)`` for some text that goes on
from here. All segmentations would be exponentially many, each with a context of its own for the
model to read, and models see next to nothing but canonical ones in training. Which texts may go
on from here is tried with ``CONTINUATIONS``: pre-tokenizers look ahead (at contractions, runs of
white space, groups of digits), so that the encoding of a text is not always a beginning of the
encoding of a longer one. Inside a character nothing can be encoded, and every token counts.

A token that turns out not to be canonical once it is complete takes its share out of the sum;
next-byte distributions are normalised over what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, final

import numpy as np

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.byte_vocabulary import ByteVocabulary
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.utf8 import goes_on, whole_characters
from coolfusion.types import Floats

END: Final = 256  # the outcome after the 256 bytes: the text ends
NUM_OUTCOMES: Final = 257
CONTINUATIONS: Final = ("", "a", "t", "1", "11", " ", "\n")
WINDOW: Final = 16  # characters after a position before its encoding counts as settled

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoverBranch:
    """The complete tokens ``ids`` and the ``depth`` bytes after them, those of a token to come.

    That token is one of the vocabulary's ``low`` to ``high``. ``log_mass`` is log p(ids) (None
    while the model has not been asked about what comes before them); ``probs`` (high - low,)
    are the probabilities of those tokens after ``ids`` and ``log_end`` that of an end there
    (None while the model has not been asked).
    """

    ids: Ids
    depth: int
    low: int
    high: int
    log_mass: float | None
    probs: Floats | None = None
    log_end: float = -np.inf


@dataclass(frozen=True, slots=True)
class Cover:
    """All covers of a text. ``pending`` holds the first bytes of a character, after the text.

    ``waiting`` are branches that cover no longer, but whose distributions still have to be
    known for the masses of others.
    """

    canonical: Canonical
    pending: bytes
    branches: tuple[CoverBranch, ...]
    waiting: tuple[CoverBranch, ...] = ()

    @property
    def unknown(self) -> list[Ids]:
        """The complete tokens about whose continuation the model must be asked."""
        return [each.ids for each in (*self.branches, *self.waiting) if each.probs is None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of the next byte and of the end: each outcome's probability lies between
    ``lower`` and ``upper`` (257,), which are equal where nothing is unknown. ``slack`` is what is
    unknown, and hence at most what they differ by. All are 0 where no token goes on."""

    lower: Floats
    upper: Floats
    slack: float


@final
class Covering:
    """How the tokens of one tokenizer cover texts, byte by byte."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = ByteVocabulary(tokenizer, vocab_size)

    def begin(self, canonical: Canonical | None = None) -> Cover:
        """The cover of a text by its canonical encoding alone; of no text, if none is given."""
        canonical = canonical or Canonical()
        return Cover(canonical, b"", (self._fresh(canonical.ids, 0.0),))

    def advance(self, cover: Cover, byte: int) -> Cover:
        """The cover of a text with one byte more. It has no branches if no token goes on so."""
        canonical, pending = cover.canonical, cover.pending + bytes([byte])
        character = whole_characters(pending)
        if character:
            canonical, pending = extend(canonical, character, self._tokenizer, WINDOW), b""
        grown: list[CoverBranch] = []
        born: list[CoverBranch] = []
        unknown: dict[Ids, CoverBranch] = {each.ids: each for each in cover.waiting}
        for branch in cover.branches:
            if branch.probs is None:
                unknown[branch.ids] = branch
            longer, num_whole = self._longer(branch, byte)
            if longer is not None:
                born += self._children(longer, num_whole)
                if longer.low + num_whole < longer.high:
                    grown.append(longer)
        if not pending:
            born = list(self._canonical_only(born, canonical))
        branches = (*grown, *born)
        return Cover(canonical, pending, branches, _waited_for(branches, unknown))

    def conditional(self, cover: Cover) -> Cover:
        """The same next bytes, with masses given the last tokens that all branches begin with.

        What leads there scales every sum alike, so that nobody has to be asked about it, and
        what waits does not become longer with the text. Totals are no longer those of the text.
        """
        there = (*cover.waiting, *cover.branches) if cover.waiting else ()
        shared = [each for each in there if _begins_all(each.ids, cover.branches)]
        last = max(shared, key=lambda each: len(each.ids), default=None)
        if last is None or last.log_mass is not None:
            return cover
        waiting = [each for each in cover.waiting if len(each.ids) >= len(last.ids)]
        return replace(
            cover,
            branches=tuple(_with_mass_at(last.ids, each) for each in cover.branches),
            waiting=tuple(_with_mass_at(last.ids, each) for each in waiting),
        )

    def learn(self, cover: Cover, rows: Mapping[Ids, Floats]) -> Cover:
        """The same cover with what the model says (vocab_size,) (nats) after all its unknown ids."""
        masses: dict[Ids, float | None] = {each.ids: each.log_mass for each in cover.waiting}
        masses |= {each.ids: each.log_mass for each in cover.branches}

        def mass(ids: Ids) -> float:
            known = masses.get(ids)
            if known is None:
                known = masses[ids] = mass(ids[:-1]) + float(rows[ids[:-1]][ids[-1]])
            return known

        branches = [
            replace(self._known(branch, rows), log_mass=mass(branch.ids))
            for branch in cover.branches
        ]
        possible = tuple(each for each in branches if each.log_mass != -np.inf)
        return replace(cover, branches=possible, waiting=())

    def bounds(self, cover: Cover) -> Bounds:
        """What is known of the byte that follows, and of the end."""
        lower, slack = self._sums(cover, _reference(cover))
        total = float(lower.sum()) + slack
        if not total:
            return Bounds(lower, lower, 0.0)
        lower, slack = lower / total, slack / total
        possible = _may_follow(cover.pending)
        return Bounds(lower, lower + slack * possible if slack else lower, slack)

    def log_next(self, cover: Cover) -> Floats:
        """(257,) log F of the text with each byte added, before it is known whether a token that
        it completes is canonical, and of the text as all there is. Nothing may be unknown."""
        reference = _reference(cover)
        sums, _ = self._sums(cover, reference)
        with np.errstate(divide="ignore"):
            logs: Floats = reference + np.log(sums)
        return logs

    def _sums(self, cover: Cover, reference: float) -> tuple[Floats, float]:
        """(257,) the known sums of all outcomes and what is unknown, related to a mass."""
        sums = np.zeros(NUM_OUTCOMES)
        slack = 0.0
        for branch in (*cover.branches, *cover.waiting):
            if branch.log_mass is None:
                continue  # part of what its waiting parent may give
            scale = float(np.exp(branch.log_mass - reference))
            if branch.probs is None:
                slack += scale
                continue
            follow = self._vocabulary.follow(branch.low, branch.high, branch.depth)
            if len(follow.starts):
                shares = np.add.reduceat(branch.probs, follow.starts - branch.low)
                sums[follow.next_bytes] += scale * shares
            if branch.depth == 0 and branch.ids == cover.canonical.ids:
                sums[END] += scale * np.exp(branch.log_end)
        return sums * _may_follow(cover.pending), slack

    def log_total(self, cover: Cover) -> float:
        """log F of the text, -inf if nothing covers it. Nothing may be unknown."""
        reference = _reference(cover)
        total = 0.0
        for branch in cover.branches:
            if branch.probs is None or branch.log_mass is None:
                raise ValueError("The cover holds distributions that are not known yet.")
            share = 1.0
            if branch.depth:
                follow = self._vocabulary.follow(branch.low, branch.high, branch.depth)
                share = float(branch.probs[follow.num_whole :].sum())
            total += share * float(np.exp(branch.log_mass - reference))
        return reference + float(np.log(total)) if total else -np.inf

    def _fresh(self, ids: Ids, log_mass: float | None) -> CoverBranch:
        return CoverBranch(ids, 0, 0, len(self._vocabulary), log_mass)

    def _known(self, branch: CoverBranch, rows: Mapping[Ids, Floats]) -> CoverBranch:
        """The branch with the probabilities of its tokens."""
        if branch.probs is not None:
            return branch
        row = rows[branch.ids]
        probs = np.exp(row[self._vocabulary.ids[branch.low : branch.high]])
        log_end = float(np.logaddexp.reduce(row[self._vocabulary.end_ids]))
        return replace(branch, probs=probs, log_end=log_end)

    def _longer(self, branch: CoverBranch, byte: int) -> tuple[CoverBranch | None, int]:
        """The branch with one byte more, and how many of its tokens are complete then."""
        follow = self._vocabulary.follow(branch.low, branch.high, branch.depth)
        if byte not in follow.ranges:
            return None, 0
        low, high = follow.ranges[byte]
        probs = branch.probs
        if probs is not None:
            # A copy, lest a handful of numbers keep a whole vocabulary's alive.
            probs = probs[low - branch.low : high - branch.low].copy()
        depth = branch.depth + 1
        longer = CoverBranch(branch.ids, depth, low, high, branch.log_mass, probs)
        return longer, self._vocabulary.follow(low, high, depth).num_whole

    def _children(self, branch: CoverBranch, num_whole: int) -> Iterator[CoverBranch]:
        """Branches that begin where a token of this one is complete."""
        for number in range(num_whole):
            log_mass = None
            if branch.probs is not None and branch.log_mass is not None:
                if not branch.probs[number]:
                    continue
                log_mass = branch.log_mass + float(np.log(branch.probs[number]))
            token = int(self._vocabulary.ids[branch.low + number])
            yield self._fresh((*branch.ids, token), log_mass)

    def _canonical_only(
        self, branches: Iterable[CoverBranch], canonical: Canonical
    ) -> Iterator[CoverBranch]:
        """Those of the branches whose ids begin the encoding of some continuation."""
        for branch in branches:
            num = len(branch.ids)
            if any(ids[:num] == branch.ids for ids in self._encodings(canonical)):
                yield branch

    def _encodings(self, canonical: Canonical) -> Iterator[Ids]:
        """Ids of the text, and of texts that go on from it in different ways."""
        yield canonical.ids
        settled = canonical.ids[: canonical.num_settled]
        for continuation in CONTINUATIONS[1:]:
            yield settled + self._tokenizer.encode(canonical.tail + continuation)


def _reference(cover: Cover) -> float:
    """The largest mass, to which the others are related."""
    masses = (each.log_mass for each in (*cover.branches, *cover.waiting))
    return max((mass for mass in masses if mass is not None), default=0.0)


def _begins_all(ids: Ids, branches: Sequence[CoverBranch]) -> bool:
    """Whether all the branches begin with ``ids``."""
    return all(each.ids[: len(ids)] == ids for each in branches)


def _with_mass_at(ids: Ids, branch: CoverBranch) -> CoverBranch:
    """The branch, with a mass of 1 if it is the one that continues ``ids``."""
    return replace(branch, log_mass=0.0) if branch.ids == ids else branch


def _waited_for(
    branches: Sequence[CoverBranch], unknown: dict[Ids, CoverBranch]
) -> tuple[CoverBranch, ...]:
    """Ancestors, not branches themselves, whose distributions some branch's mass depends on."""
    there = {each.ids for each in branches}
    found: dict[Ids, CoverBranch] = {}
    for branch in branches:
        log_mass, ids = branch.log_mass, branch.ids
        while log_mass is None:
            ids = ids[:-1]
            parent = unknown[ids]
            if ids not in there:
                found[ids] = parent
            log_mass = parent.log_mass
    return tuple(found.values())


@lru_cache(maxsize=4096)
def _may_follow(pending: bytes) -> Floats:
    """(257,) 1 for every outcome that may follow the beginning of a character, else 0."""
    allowed = np.zeros(NUM_OUTCOMES)
    allowed[END] = not pending
    allowed[:END] = [goes_on(pending + bytes([byte])) for byte in range(END)]
    allowed.flags.writeable = False
    return allowed
