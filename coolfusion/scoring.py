"""Scoring: what each source thinks of each candidate segment.

The log-likelihood of a segment is that of the canonical encoding of the response with it,
less that of the response without it. The two encodings share all but their last tokens, so
only those are ever computed; sums over the steps telescope to the likelihood of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coolfusion.asking import Ask, Talk, ask
from coolfusion.backends.base import Query, Scores
from coolfusion.backends.sampling import Sampling
from coolfusion.backends.source import Source
from coolfusion.errors import ContextLengthError
from coolfusion.tokenization.canonical import Canonical, common_length, extend
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Segments to be scored after ``prompt`` and the response so far; ``lane`` names the response."""

    prompt: tuple[int, ...]
    response: Canonical
    segments: tuple[str, ...]
    ends: tuple[bool, ...]
    sampling: Sampling
    lane: int | None = None


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
    answers = yield from ask([Ask(k, query) for query in queries])
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
        lane=request.lane,
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
