"""Scoring: what each source thinks of each candidate segment.

The log-likelihood of a segment is that of the canonical encoding of the response with it,
less that of the response without it. The two encodings share all but their last tokens, so
only those are ever computed; sums over the steps telescope to the likelihood of the whole.

Scoring by bytes: what a source thinks of a segment's text, however it would cut it into tokens.

The likelihood of a segment's canonical tokens depends on the tokenizer beyond the text: a source
with a token for every word says with `` cat`` that no ``egory`` follows, a source with shorter
tokens does not. Scored by bytes, a segment ``y`` after the response ``s`` gets from every source

    L = log sum_b F(s y b) - log F(s)

over what may come where a segment is cut: white space and the end (anything, after a script that
is written without spaces), with ``F`` the sum over covers of ``coolfusion.tokenization.covers``. A segment that
ends the response gets the end alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.sampling import Sampling, log_total
from coolfusion.backends.source import Source
from coolfusion.decoding.scheduler import (
    DistributionRequest,
    ModelRequest,
    Talk,
    ask,
    ask_distributions,
)
from coolfusion.errors import ContextLengthError
from coolfusion.tokenization.boundaries import is_unspaced
from coolfusion.tokenization.canonical import Canonical, common_length, extend
from coolfusion.tokenization.covers import END, Cover, Covering
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Segments to be scored after ``prompt`` and the response so far; ``sequence_id`` names the response."""

    prompt: tuple[int, ...]
    response: Canonical
    segments: tuple[str, ...]
    ends: tuple[bool, ...]
    sampling: Sampling
    sequence_id: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentScores:
    """Per segment: its log-likelihood (nats), the tokens it took, and its first token's share."""

    log_likelihoods: tuple[float, ...]
    num_tokens: tuple[int, ...]
    log_first: tuple[float, ...]
    usage: Usage


Scorer = Callable[[int, Source, ScoreRequest], Talk[SegmentScores]]


def score(k: int, source: Source, request: ScoreRequest) -> Talk[SegmentScores]:
    """Score segments by ``source``, which is number ``k``.

    A segment that ``ends`` counts its end as one more token. Raises ``ContextLengthError`` if
    a segment does not fit into the context window.
    """
    queries: list[Query] = []
    plan = _plan(source, request, queries)
    answers = yield from ask([ModelRequest(k, query) for query in queries])
    return _collect(request, plan, answers)


@dataclass(frozen=True, slots=True)
class _Part:
    """Where the answers for one segment will be: its own, and that of the tokens it replaces."""

    added: int
    replaced: int | None


def _plan(source: Source, request: ScoreRequest, queries: list[Query]) -> list[_Part]:
    parts = []
    replaced_at: dict[int, int] = {}
    for segment in request.segments:
        longer = extend(request.response, segment, source.tokenizer)
        shared = common_length(request.response, longer)
        _check_fits(source, request, longer)
        if shared < len(request.response.ids) and shared not in replaced_at:
            replaced_at[shared] = len(queries)
            queries.append(_query(source, request, request.response.ids, shared))
        parts.append(_Part(len(queries), replaced_at.get(shared)))
        queries.append(_query(source, request, longer.ids, shared))
    return parts


def _query(source: Source, request: ScoreRequest, ids: tuple[int, ...], shared: int) -> Query:
    return Query(
        request.prompt + ids[:shared],
        ids[shared:],
        watch=tuple(sorted(source.tokenizer.end_ids)),
        sampling=request.sampling,
        sequence_id=request.sequence_id,
    )


def _check_fits(source: Source, request: ScoreRequest, longer: Canonical) -> None:
    limit = source.backend.context_length
    needed = len(request.prompt) + len(longer.ids)
    if limit is not None and needed > limit:
        raise ContextLengthError(
            f"Scoring a candidate needs {needed} tokens, but the context window holds {limit}."
        )


def _collect(request: ScoreRequest, plan: list[_Part], answers: list[Scores]) -> SegmentScores:
    log_likelihoods, num_tokens, log_first = [], [], []
    for part, ends in zip(plan, request.ends, strict=True):
        added = answers[part.added]
        log_likelihood = sum(added.log_probs)
        if part.replaced is not None:
            log_likelihood -= sum(answers[part.replaced].log_probs)
        if ends:
            log_likelihood += added.watched[-1]
        log_likelihoods.append(log_likelihood)
        num_tokens.append(max(1, len(added.log_probs) + ends))
        log_first.append(added.log_probs[0] if added.log_probs else 0.0)
    return SegmentScores(
        tuple(log_likelihoods),
        tuple(num_tokens),
        tuple(log_first),
        Usage(
            num_scored=sum(num_tokens),
            num_forwarded=sum(answer.num_forwarded for answer in answers),
            num_passes=max(answer.num_passes for answer in answers),
        ),
    )


AFTER_A_SEGMENT: Final = np.array([*b" \t\n\v\f\r", END])


@final
class ByteScorer:
    """Scores segments by one source through the covers of their texts."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._covering = Covering(source.tokenizer, source.backend.vocab_size)

    def __call__(self, k: int, source: Source, request: ScoreRequest) -> Talk[SegmentScores]:
        """Score segments by the source, which is number ``k``, in one pass over all their covers.

        Where no tokens spell a segment (a tokenizer that composes accents cannot write loose ones),
        it is scored by its canonical tokens, and so are its rivals.
        """
        start = self._covering.begin(request.response)
        covers = [self._after(start, segment) for segment in request.segments]
        if not all(cover.branches for cover in covers):
            return (yield from score(k, source, request))
        unknown = list(dict.fromkeys(ids for cover in (start, *covers) for ids in cover.unknown))
        prompt, sequence_id = request.prompt, request.sequence_id
        answers = yield from ask_distributions(
            [
                DistributionRequest(k, Query(prompt + ids, sequence_id=sequence_id))
                for ids in unknown
            ]
        )
        rows = {ids: each.log_probs[0] for ids, each in zip(unknown, answers, strict=True)}
        known = [self._covering.learn(cover, rows) for cover in covers]
        first = self._covering.log_next(self._covering.learn(start, rows))
        num_tokens = [
            max(1, len(cover.canonical.ids) - len(request.response.ids) + ends)
            for cover, ends in zip(covers, request.ends, strict=True)
        ]
        return SegmentScores(
            tuple(map(self._log_likelihood, known, request.segments, request.ends)),
            tuple(num_tokens),
            tuple(float(first[each.encode()[0]]) if each else 0.0 for each in request.segments),
            Usage(
                num_scored=sum(num_tokens),
                num_forwarded=sum(answer.num_forwarded for answer in answers),
                num_passes=max(answer.num_passes for answer in answers),
            ),
        )

    def _after(self, cover: Cover, segment: str) -> Cover:
        """The cover with a segment added, whose distributions need not be known."""
        for byte in segment.encode():
            cover = self._covering.advance(cover, byte)
        return cover

    def _log_likelihood(self, cover: Cover, segment: str, ends: bool) -> float:
        if not ends and is_unspaced(segment[-1]):
            return self._covering.log_total(cover)
        return log_total(self._covering.log_next(cover)[[END] if ends else AFTER_A_SEGMENT])
