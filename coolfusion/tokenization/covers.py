"""Covers: the token sequences that a text may be the beginning of, and their probability.

A *cover* of the bytes ``s`` is a sequence ``h`` of complete tokens that spells a beginning of
``s``. One token in progress after it begins with the rest. A model with next-token probabilities
``p`` gives the bytes the sum over their covers, as in the Byte-Token Representation Lemma of
arXiv 2410.09303:

    F(s) = sum_h p(h) * sum_{t begins with s after h} p(t | h)

The complete tokens must be canonical: a beginning of ``encode(text)`` for some ``text`` that
continues ``s``. Next-byte distributions are normalised over the shares of these covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.byte_vocabulary import ByteVocabulary
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.continuations import beginnings, kinds_of
from coolfusion.tokenization.utf8 import END, NUM_OUTCOMES, may_follow, whole_characters
from coolfusion.types import Floats

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoverBranch:
    """Complete tokens ``ids``, and a token in progress of which ``depth`` bytes are written.

    The vocabulary's tokens ``low`` to ``high`` begin with those bytes. ``log_mass`` is log p(ids)
    in nats. ``probs`` (high - low,) are the probabilities of those tokens after ``ids``, and
    ``log_end`` is the log-probability of an end there. None: not known yet.
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
    """All covers of a text. ``pending`` holds the bytes of an incomplete character after it.

    ``waiting`` are branches that cover the text no longer. Masses of other branches still depend
    on their distributions.
    """

    canonical: Canonical
    pending: bytes
    branches: tuple[CoverBranch, ...]
    waiting: tuple[CoverBranch, ...] = ()

    @property
    def unknown(self) -> list[Ids]:
        """The prefixes after which the model's distribution is still needed."""
        return [each.ids for each in (*self.branches, *self.waiting) if each.probs is None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds (257,) of the probabilities of the next byte and of the end.

    ``slack`` is the unknown share, and ``upper`` exceeds ``lower`` by at most that. All are 0 if
    no token continues the text.
    """

    lower: Floats
    upper: Floats
    slack: float


@final
class Covering:
    """Covers of texts by the tokens of one tokenizer, extended byte by byte."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = ByteVocabulary(tokenizer, vocab_size)
        self._kinds = kinds_of(tokenizer, self._vocabulary.bytes_written)

    def begin(self, canonical: Canonical | None = None) -> Cover:
        """The cover of a text by its canonical encoding alone; by default of the empty text."""
        canonical = canonical or Canonical()
        # Mass 1: probabilities are conditional on this encoding from here on.
        return Cover(canonical, b"", (self._fresh(canonical.ids, 0.0),))

    def advance(self, cover: Cover, byte: int) -> Cover:
        """The cover of the text with one more byte; without branches if no token continues so."""
        canonical, pending = cover.canonical, cover.pending + bytes([byte])
        character = whole_characters(pending)
        if character:
            canonical, pending = extend(canonical, character, self._tokenizer), b""
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
        # All segmentations would be exponentially many, each with a prefix of its own for the
        # model. Example: the tokens are "a", "b", "ab". After the byte "a", the branch "a" is
        # canonical. After "b", its child "a", "b" is not the encoding of "ab" and leaves the
        # sum. Inside a character there is no text to encode, so every token counts.
        if not pending:
            born = self._canonical_only(born, canonical, grown)
        branches = (*grown, *born)
        return Cover(canonical, pending, branches, _waited_for(branches, unknown))

    def conditional(self, cover: Cover) -> Cover:
        """The same next-byte distribution, with masses relative to the ids common to all branches.

        ``log_total`` is no longer that of the text.
        """
        # F = p(common) * (a sum given common), and normalisation cancels p(common). So nothing
        # before the common ids is asked for, and waiting does not grow with the text.
        there = (*cover.waiting, *cover.branches) if cover.waiting else ()
        shared = [
            each
            for each in there
            if all(branch.ids[: len(each.ids)] == each.ids for branch in cover.branches)
        ]
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
        """The same cover, given the model's log-probabilities after each of its unknown prefixes.

        ``rows`` maps ids to (vocab_size,) in nats.
        """
        masses: dict[Ids, float | None] = {each.ids: each.log_mass for each in cover.waiting}
        masses |= {each.ids: each.log_mass for each in cover.branches}

        def mass(ids: Ids) -> float:
            # The chain rule, back to an ancestor whose mass is known. The rows on the way are
            # there: a mass is None only after a parent whose distribution is unknown.
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
        """Bounds of the next-byte distribution; exact if nothing is unknown."""
        lower, slack = self._sums(cover, _reference(cover))
        total = float(lower.sum()) + slack
        if not total:
            return Bounds(lower, lower, 0.0)
        # Subtle: of the unknown mass S some X <= S stays in the sum, and some x <= X goes to an
        # outcome with known sum L of total T. So L / (T + S) <= (L + x) / (T + X), which is
        # at most (L + X) / (T + X) <= (L + S) / (T + S), as L <= T.
        lower, slack = lower / total, slack / total
        possible = may_follow(cover.pending)
        return Bounds(lower, lower + slack * possible if slack else lower, slack)

    def log_next(self, cover: Cover) -> Floats:
        """(257,) log F of the text with each byte added, and of the text and then its end.

        A token that the byte completes counts, canonical or not. Nothing may be unknown.
        """
        reference = _reference(cover)
        sums, _ = self._sums(cover, reference)
        with np.errstate(divide="ignore"):
            logs: Floats = reference + np.log(sums)
        return logs

    def _sums(self, cover: Cover, reference: float) -> tuple[Floats, float]:
        """(257,) the known sums of all outcomes and the unknown mass, relative to ``reference``."""
        sums, slack = np.zeros(NUM_OUTCOMES), 0.0
        for branch in (*cover.branches, *cover.waiting):
            if branch.log_mass is None:
                # Part of the slack of an ancestor whose distribution is unknown.
                continue
            scale = float(np.exp(branch.log_mass - reference))
            if branch.probs is None:
                slack += scale
                continue
            follow = self._vocabulary.follow(branch.low, branch.high, branch.depth)
            if len(follow.starts):
                # Subtle: the groups lie one after another up to high, so the sum from start to
                # start is that of a group. Complete tokens stand before the first start.
                shares = np.add.reduceat(branch.probs, follow.starts - branch.low)
                sums[follow.next_bytes] += scale * shares
            # A whole text has one encoding, so it can end only after that.
            if branch.depth == 0 and branch.ids == cover.canonical.ids:
                sums[END] += scale * np.exp(branch.log_end)
        return sums * may_follow(cover.pending), slack

    def log_total(self, cover: Cover) -> float:
        """log F of the text in nats, -inf if nothing covers it.

        Raises ``ValueError`` if a distribution is unknown.
        """
        reference, total = _reference(cover), 0.0
        for branch in cover.branches:
            if branch.probs is None or branch.log_mass is None:
                raise ValueError("The cover holds distributions that are not known yet.")
            # At depth 0 any token may follow, or the end. Deeper, complete tokens are left out:
            # they are branches of their own.
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
        """The branch with one more byte, and how many of its tokens are then complete."""
        follow = self._vocabulary.follow(branch.low, branch.high, branch.depth)
        if byte not in follow.ranges:
            return None, 0
        low, high = follow.ranges[byte]
        probs = branch.probs
        if probs is not None:
            # A copy: a view of a few numbers would keep those of the whole vocabulary alive.
            probs = probs[low - branch.low : high - branch.low].copy()
        depth = branch.depth + 1
        longer = CoverBranch(branch.ids, depth, low, high, branch.log_mass, probs)
        return longer, self._vocabulary.follow(low, high, depth).num_whole

    def _children(self, branch: CoverBranch, num_whole: int) -> Iterator[CoverBranch]:
        """New branches after each of the ``num_whole`` tokens that are complete."""
        for number in range(num_whole):
            log_mass = None
            if branch.probs is not None and branch.log_mass is not None:
                # A branch without mass adds nothing, and would cost a query.
                if not branch.probs[number]:
                    continue
                log_mass = branch.log_mass + float(np.log(branch.probs[number]))
            token = int(self._vocabulary.ids[branch.low + number])
            yield self._fresh((*branch.ids, token), log_mass)

    def _canonical_only(
        self, born: list[CoverBranch], canonical: Canonical, grown: Iterable[CoverBranch]
    ) -> list[CoverBranch]:
        """The branches whose ids begin the encoding of the text or of a continuation of it."""
        undecided = {branch.ids for branch in born if branch.ids != canonical.ids}
        if undecided:
            follows = (self._vocabulary.follow(each.low, each.high, each.depth) for each in grown)
            joined = {byte for follow in follows for byte in follow.ranges}
            for ids in beginnings(canonical, self._tokenizer, self._kinds, joined):
                undecided.discard(ids)
                if not undecided:
                    break
        return [branch for branch in born if branch.ids not in undecided]


def _reference(cover: Cover) -> float:
    """The largest log-mass: relative to it the exponentials of long texts do not underflow."""
    masses = (each.log_mass for each in (*cover.branches, *cover.waiting))
    return max((mass for mass in masses if mass is not None), default=0.0)


def _with_mass_at(ids: Ids, branch: CoverBranch) -> CoverBranch:
    """The branch, with a mass of 1 if it is the one that continues ``ids``."""
    return replace(branch, log_mass=0.0) if branch.ids == ids else branch


def _waited_for(
    branches: Sequence[CoverBranch], unknown: dict[Ids, CoverBranch]
) -> tuple[CoverBranch, ...]:
    """Ancestors, no branches themselves, on whose distributions the mass of a branch depends."""
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
