"""The answer cache: what a model said about a text is kept, and never computed twice.

A verified guess, a scored candidate and a draft's look-ahead may all become text later. Then the
decoder asks about them again, token by token. Answers depend on their query alone, so remembering
them can only save time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from coolfusion.backends.base import Backend, Query, Scores, turn_of
from coolfusion.backends.sampling import Sampling
from coolfusion.decoding.checked_backend import CheckedBackend
from coolfusion.decoding.scheduler import Answer, DistributionRequest, ModelRequest
from coolfusion.errors import SourceError

_KEEP = 0.95  # weight that an earlier measurement keeps when a new one arrives


@dataclass(slots=True)
class Pace:
    """Seconds of a forward pass, fitted as ``per_pass + per_token * tokens``.

    Weighted least squares on relative errors; recent passes count most.
    """

    per_pass: float = 0.01
    per_token: float = 0.001
    _pp: float = 0.0
    _pt: float = 0.0
    _tt: float = 0.0
    _ps: float = 0.0
    _ts: float = 0.0

    def observe(self, num_passes: int, num_tokens: int, seconds: float) -> None:
        """Learn from a call that took so many passes over so many tokens."""
        if not num_passes or seconds <= 0:
            return
        passes, tokens = num_passes / seconds, num_tokens / seconds
        self._pp = _KEEP * self._pp + passes * passes
        self._pt = _KEEP * self._pt + passes * tokens
        self._tt = _KEEP * self._tt + tokens * tokens
        self._ps = _KEEP * self._ps + passes
        self._ts = _KEEP * self._ts + tokens
        determinant = self._pp * self._tt - self._pt * self._pt
        if determinant > 1e-3 * self._pp * self._tt:
            self.per_pass = (self._ps * self._tt - self._ts * self._pt) / determinant
            self.per_token = (self._ts * self._pp - self._ps * self._pt) / determinant
        if determinant <= 1e-3 * self._pp * self._tt or self.per_token < 0:
            # One kind of pass says nothing of how its cost divides: nearly all is the pass.
            self.per_token = 0.1 * self._ts / self._tt
            self.per_pass = 0.9 * self._ps / self._pp
        elif self.per_pass < 0:
            self.per_pass, self.per_token = 0.0, self._ts / self._tt

    def seconds(self, num_tokens: float, num_texts: int = 1) -> float:
        """What ``num_tokens`` of one text cost in a pass that ``num_texts`` texts share."""
        return self.per_pass / num_texts + self.per_token * num_tokens


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
class AnswerCache:
    """Asks a backend, and never twice about the same sequence's text.

    Queries without a sequence id are passed on, and so are those for whole distributions, of which few
    are asked for again. Every answer is checked as it comes in, and only one that is proper is
    kept. ``pace`` is how fast the backend proved to be.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = CheckedBackend(backend)
        self._turn = turn_of(backend)
        self.pace = Pace()
        self._texts: OrderedDict[Kind, Text] = OrderedDict()

    def answer(self, requests: Sequence[ModelRequest]) -> list[Answer]:
        """Answer requests in order; only what is not known yet is asked of the model.

        A request whose answer is improper has a ``SourceError`` in its place. Threads take turns.
        """
        with self._turn:
            return self._answered(requests)

    def _answered(self, requests: Sequence[ModelRequest]) -> list[Answer]:
        whole = [i for i, each in enumerate(requests) if isinstance(each, DistributionRequest)]
        if not whole:
            return [*self._scores(requests)]
        answers: dict[int, Answer] = {}
        distributions = self._backend.distributions([requests[i].query for i in whole])
        answers.update(zip(whole, distributions, strict=True))
        others = [i for i in range(len(requests)) if i not in answers]
        scores = self._scores([requests[i] for i in others])
        answers.update(zip(others, scores, strict=True))
        return [answers[i] for i in range(len(requests))]

    def _scores(self, requests: Sequence[ModelRequest]) -> list[Scores | SourceError]:
        known = [self._known(request) for request in requests]
        open_ = [i for i, request in enumerate(requests) if not _is_whole(request, known[i])]
        if not open_:
            return [*known]
        queries = [_rest(requests[i], known[i]) for i in open_]
        begun = time.perf_counter()
        if all(requests[i].is_draft for i in open_):
            answers = self._backend.draft(queries, 1)
        else:
            answers = self._backend.score(queries)
        self._learn_pace(answers, time.perf_counter() - begun)
        found: list[Scores | SourceError] = [*known]
        for i, query, scores in zip(open_, queries, answers, strict=True):
            if isinstance(scores, Scores):
                self._note(query, scores)
                found[i] = _joined(known[i], scores)
            else:
                found[i] = scores
        return found

    def _learn_pace(self, answers: Sequence[Scores | SourceError], seconds: float) -> None:
        proper = [answer for answer in answers if isinstance(answer, Scores)]
        if len(proper) == len(answers):
            self.pace.observe(
                max(scores.num_passes for scores in proper),
                sum(scores.num_forwarded for scores in proper),
                seconds,
            )

    def _known(self, request: ModelRequest) -> Scores:
        if request.is_draft:
            return self._known_draft(request.query)
        return self._known_scores(request.query)

    def _text(self, query: Query) -> Text | None:
        if query.sequence_id is None:
            return None
        kind = (query.sequence_id, query.sampling, query.watch)
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
        fact: Fact | None = text.at(query.prefix)
        picks = []
        while fact is not None and fact.pick is not None:
            picks.append(fact.pick)
            fact = fact.after.get(fact.pick.token)
        return _scores([pick.log_prob for pick in picks], picks)

    def _note(self, query: Query, scores: Scores) -> None:
        """Keep an answer; one to a draft has nothing but picks."""
        text = self._text(query)
        if text is None:
            return
        fact = text.at(query.prefix)
        log_probs = scores.log_probs if query.continuation else scores.pick_log_probs
        tokens = query.continuation or scores.picks
        for i, pick in enumerate(map(Pick, scores.picks, scores.pick_log_probs, scores.watched)):
            fact.pick = pick
            step(fact, pick.token).log_prob = pick.log_prob
            if i < len(tokens):
                fact = step(fact, tokens[i])
                fact.log_prob = log_probs[i]


_NOTHING = Scores((), (), (), ())


def _is_whole(request: ModelRequest, known: Scores) -> bool:
    return len(known.picks) > (0 if request.is_draft else len(request.query.continuation))


def _rest(request: ModelRequest, known: Scores) -> Query:
    """The part of a query that follows what is known of its continuation."""
    query, num_known = request.query, len(known.log_probs)
    if not num_known:
        return query
    return replace(
        query,
        prefix=query.prefix + query.continuation[:num_known],
        continuation=query.continuation[num_known:],
    )


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
    if not known.picks:
        return asked
    return Scores(
        known.log_probs + asked.log_probs,
        known.picks + asked.picks,
        known.pick_log_probs + asked.pick_log_probs,
        known.watched + asked.watched,
        asked.num_forwarded,
        asked.num_passes,
    )
