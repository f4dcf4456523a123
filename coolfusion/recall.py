"""Answers a backend gave, kept so that no question is asked twice.

A guess that was verified in one pass, a candidate that was scored before it won, a draft's
look-ahead: what a model said about them is asked again, token by token, as they become the
text. Answers depend on their query alone, so remembering them can only save time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from coolfusion.backend import Backend, Query, Sampling, Scores

REACH = 64  # tokens before the end of a text about which answers are kept
MAX_TEXTS = 1024  # texts that are remembered

Kind = tuple[int, Sampling, tuple[int, ...]]


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


@final
class Recall:
    """A backend that asks another one, and that one never twice about the same lane's text.

    Queries without a lane are passed on. ``draft`` gives all further picks that are known.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._texts: OrderedDict[Kind, Text] = OrderedDict()

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._backend.vocab_size

    @property
    def context_length(self) -> int | None:
        """Most tokens a query may have; None: no limit."""
        return self._backend.context_length

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries; only what is not known yet is asked of the model."""
        known = [self._known_scores(query) for query in queries]
        open_ = [i for i, scores in enumerate(known) if len(scores.picks) < _wanted(queries[i])]
        if open_:
            asked = [_rest(queries[i], len(known[i].log_probs)) for i in open_]
            for i, query, scores in zip(open_, asked, self._backend.score(asked), strict=True):
                self._note(query, scores, query.continuation)
                known[i] = _joined(known[i], scores)
        return known

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """At least ``num_tokens`` picks for each query."""
        known = [self._known_draft(query) for query in queries]
        open_ = [i for i, scores in enumerate(known) if len(scores.picks) < num_tokens]
        if open_:
            asked = [_from_end(queries[i], known[i].picks) for i in open_]
            missing = max(num_tokens - len(known[i].picks) for i in open_)
            answers = self._backend.draft(asked, missing)
            for i, query, scores in zip(open_, asked, answers, strict=True):
                self._note(query, scores, scores.picks)
                known[i] = _joined(known[i], scores)
        return known

    def _text(self, query: Query) -> Text | None:
        if query.lane is None:
            return None
        kind = (query.lane, query.sampling, query.watch)
        text = self._texts.get(kind)
        if text is None:
            text = self._texts[kind] = Text()
            if len(self._texts) > MAX_TEXTS:
                self._texts.popitem(last=False)
        else:
            self._texts.move_to_end(kind)
        return text

    def _known_scores(self, query: Query) -> Scores:
        """What is known of a query's answer from its first token on, without a gap."""
        text = self._text(query)
        if text is None:
            return _NOTHING
        fact = text.at(query.prefix)
        picks, log_probs = [], []
        for token in query.continuation:
            after = fact.after.get(token)
            if fact.pick is None or after is None or after.log_prob is None:
                break
            picks.append(fact.pick)
            log_probs.append(after.log_prob)
            fact = after
        if len(log_probs) == len(query.continuation) and fact.pick is not None:
            picks.append(fact.pick)
        return _scores(log_probs, picks)

    def _known_draft(self, query: Query) -> Scores:
        """The picks that are known, one after another."""
        text = self._text(query)
        if text is None:
            return _NOTHING
        fact: Fact | None = text.at(query.prefix + query.continuation)
        picks = []
        while fact is not None and fact.pick is not None:
            picks.append(fact.pick)
            fact = fact.after.get(fact.pick.token)
        return _scores([pick.log_prob for pick in picks], picks)

    def _note(self, query: Query, scores: Scores, tokens: tuple[int, ...]) -> None:
        """Keep an answer about ``tokens`` after a query's prefix."""
        text = self._text(query)
        if text is None:
            return
        fact = text.at(query.prefix)
        for i, pick in enumerate(map(Pick, scores.picks, scores.pick_log_probs, scores.watched)):
            fact.pick = pick
            step(fact, pick.token).log_prob = pick.log_prob
            if i < len(tokens):
                fact = step(fact, tokens[i])
                fact.log_prob = scores.log_probs[i]


_NOTHING = Scores((), (), (), ())


def _wanted(query: Query) -> int:
    return len(query.continuation) + 1


def _rest(query: Query, num_known: int) -> Query:
    """The part of a query that follows its first ``num_known`` continuation tokens."""
    if not num_known:
        return query
    return replace(
        query,
        prefix=query.prefix + query.continuation[:num_known],
        continuation=query.continuation[num_known:],
    )


def _from_end(query: Query, picks: tuple[int, ...]) -> Query:
    """A query after all that ``query`` says and the known picks that follow."""
    return replace(query, prefix=query.prefix + query.continuation + picks, continuation=())


def _scores(log_probs: Sequence[float], picks: Sequence[Pick]) -> Scores:
    """Scores that cost nothing."""
    return Scores(
        tuple(log_probs),
        tuple([pick.token for pick in picks]),
        tuple([pick.log_prob for pick in picks]),
        tuple([pick.watched for pick in picks]),
    )


def _joined(known: Scores, asked: Scores) -> Scores:
    """What was known, followed by what was asked for."""
    return Scores(
        known.log_probs + asked.log_probs,
        known.picks + asked.picks,
        known.pick_log_probs + asked.pick_log_probs,
        known.watched + asked.watched,
        asked.num_forwarded,
        asked.num_passes,
    )
