"""The answer cache: what a model said about a text is kept, and never computed twice.

A verified guess, a scored candidate and a draft's look-ahead may all become text later. Then the
decoder asks about them again, token by token. Answers depend on their query alone, so remembering
them can only save time.

Requests that are likely to come soon can ride on a call that is made anyway. No call is ever made
for them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias, final

from coolfusion.backends.base import Backend, Query, Scores, turn_of
from coolfusion.backends.sampling import Sampling
from coolfusion.decoding.checked_backend import CheckedBackend
from coolfusion.decoding.facts import NOTHING_KNOWN, Fact, Pick, Text, step
from coolfusion.decoding.pace import Pace
from coolfusion.decoding.scheduler import Answer, DistributionRequest, ModelRequest
from coolfusion.errors import SourceError, SourceUnreachableError

MAX_TEXTS = 1024  # texts that are remembered

Kind = tuple[int, Sampling, tuple[int, ...]]

# What may ride on a call for these queries: requests that may follow.
Riders: TypeAlias = Callable[[Sequence[Query]], Sequence[ModelRequest]]


@final
class AnswerCache:
    """Asks a backend, and never twice about the same sequence's text.

    Queries without a sequence id are passed on, and so are those for whole distributions, of which few
    are asked for again. Every answer is checked as it comes in, and only one that is proper is
    kept. ``pace`` is how fast the backend proved to be. ``riders`` (None: nothing rides) is asked
    before every call.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = CheckedBackend(backend)
        self._turn = turn_of(backend)
        self.pace = Pace()
        self.riders: Riders | None = None
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
        riders = self._riders(queries)
        answers = self._asked(queries, riders, all(requests[i].is_draft for i in open_))
        found: list[Scores | SourceError] = [*known]
        for i, query, scores in zip(open_, queries, answers[: len(open_)], strict=True):
            if isinstance(scores, Scores):
                self._note(query, scores)
                found[i] = _joined(known[i], scores)
            else:
                found[i] = scores
        # Where riders would have failed the call, it was made without them.
        for query, scores in zip(riders, answers[len(open_) :], strict=False):
            if isinstance(scores, Scores):
                self._note(query, scores)
                _charge(found, requests, query, scores)
        return found

    def _riders(self, queries: Sequence[Query]) -> list[Query]:
        """What rides on a call for ``queries``, as far as it is not known."""
        riders = [] if self.riders is None else self.riders(queries)
        return [_rest(rider, self._known_scores(rider.query)) for rider in riders]

    def _asked(
        self, queries: list[Query], riders: list[Query], are_drafts: bool
    ) -> Sequence[Scores | SourceError]:
        """The backend's answers to queries and to their riders, if it can answer these at all."""
        begun = time.perf_counter()
        texts = [self._seen(query) for query in queries]
        are_begun = all(text is not None and not text.is_new for text in texts)
        try:
            if are_drafts and not riders:
                answers = self._backend.draft(queries, 1)
            else:
                answers = self._backend.score([*queries, *riders])
        except SourceUnreachableError:
            raise
        except Exception:
            if not riders:
                raise
            return self._asked(queries, [], are_drafts)  # no rider may fail what it rides on
        if are_begun and all(isinstance(answer, Scores) for answer in answers):
            # The first call about a text reads all of it, and says nothing of the next ones.
            seconds = time.perf_counter() - begun
            self.pace.observe(len(positions([*queries, *riders])), seconds)
        return answers

    def known(self, query: Query) -> Fact:
        """What is known after a query's prefix. To look at it changes nothing."""
        text = self._seen(query)
        return NOTHING_KNOWN if text is None else text.peek(query.prefix)

    def _seen(self, query: Query) -> Text | None:
        """The text of a query, if it has been asked about."""
        if query.sequence_id is None:
            return None
        return self._texts.get((query.sequence_id, query.sampling, query.watch))

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
        picks, log_probs, fact = text.at(query.prefix).along(query.continuation)
        if len(log_probs) == len(query.continuation) and fact.pick is not None:
            picks.append(fact.pick)
        return _scores(log_probs, picks)

    def _known_draft(self, query: Query) -> Scores:
        """The picks that are known, one after another."""
        text = self._text(query)
        if text is None:
            return _NOTHING
        picks = text.at(query.prefix).picks
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


def positions(queries: Iterable[Query]) -> set[tuple[int | None, tuple[int, ...]]]:
    """What a call asks about: the text before each position, with the sequence that it is of."""
    return {
        (query.sequence_id, (query.prefix + query.continuation)[:end])
        for query in queries
        for end in range(len(query.prefix), len(query.prefix) + len(query.continuation) + 1)
    }


def _charge(
    found: list[Scores | SourceError],
    requests: Sequence[ModelRequest],
    rider: Query,
    scores: Scores,
) -> None:
    """Count what a rider cost with a request of its sequence."""
    for i, request in enumerate(requests):
        answer = found[i]
        if request.query.sequence_id == rider.sequence_id and isinstance(answer, Scores):
            num_forwarded = answer.num_forwarded + scores.num_forwarded
            found[i] = replace(answer, num_forwarded=num_forwarded)
            return


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
