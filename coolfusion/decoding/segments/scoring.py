"""Scoring: the log-likelihood of each candidate segment under each source.

By tokens, the log-likelihood of a segment is that of the canonical encoding of the response
with it, less that of the response without it. The two encodings share all but their last
tokens, so only those are ever computed. Sums over the steps telescope to the likelihood of the
whole response.

That likelihood depends on the tokenizer beyond the text. A source with one token for `` cat``
also says that no ``egory`` follows; a source with shorter tokens does not. By bytes, a segment
``y`` after the response ``s`` gets from every source, however it would cut it into tokens,

    L = log sum_b F(s y b) - log F(s)

over what may follow a cut: white space and the end. After a script that is written without
spaces, anything may follow. ``F`` is the sum over covers of ``coolfusion.tokenization.covers``. A
segment that ends the response gets the end alone. The sums over covers are those of
arXiv 2410.09303; what may follow a segment is our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import numpy as np

from coolfusion.backends.base import Distributions, Scores
from coolfusion.backends.sampling import log_sum_exp
from coolfusion.backends.source import Source
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.scheduler import ModelRequest, Task, ask, ask_distributions, gather, run
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import ContextLengthError, SourceError
from coolfusion.tokenization.boundaries import is_unspaced
from coolfusion.tokenization.canonical import Canonical, common_length, lengthened
from coolfusion.tokenization.covers import Cover, Covering
from coolfusion.tokenization.utf8 import END
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class Segment:
    """Text to be scored as the next of a response, which ``ends`` after it or goes on."""

    text: str
    ends: bool = False


@dataclass(frozen=True, slots=True)
class SegmentScores:
    """Per segment: its log-likelihood (nats), the tokens it took, and its first token's share.

    A log-likelihood is -inf for probability 0. It is NaN where the text before has probability 0,
    so that nothing is said of what follows.
    """

    log_likelihoods: tuple[float, ...]
    num_tokens: tuple[int, ...]
    log_first: tuple[float, ...]
    usage: Usage


Scorer: TypeAlias = Callable[[SourceView, Sequence[Segment]], Task[SegmentScores]]


async def score(view: SourceView, segments: Sequence[Segment]) -> SegmentScores:
    """Score segments by their canonical tokens, in one call to the source of ``view``.

    A segment that ends counts its end as one more token. Raises ``ContextLengthError`` if a
    segment does not fit into the context window.
    """
    requests: list[ModelRequest] = []
    plan = _plan(view, segments, requests)
    return _collect(segments, plan, await ask(requests))


def score_requests(
    requests: Iterable[tuple[SourceView, Sequence[Segment]]], cache: AnswerCache
) -> list[SegmentScores | SourceError]:
    """Scores by one source after several responses, in shared calls; one that fails, fails alone.

    All views are of the source behind ``cache``, as number 0.
    """
    return run(gather([score(view, segments) for view, segments in requests]), [cache])


@dataclass(frozen=True, slots=True)
class _Part:
    """Where the answers for one segment will be: its own, and that of the tokens it replaces."""

    added: int
    replaced: int | None


def _plan(
    view: SourceView, segments: Sequence[Segment], requests: list[ModelRequest]
) -> list[_Part]:
    response, parts = view.encoded, []
    replaced_at: dict[int, int] = {}
    for segment in segments:
        longer = lengthened(response, segment.text, view.source.tokenizer)
        shared = common_length(response, longer)
        _check_fits(view, longer)
        if shared < len(response.ids) and shared not in replaced_at:
            replaced_at[shared] = len(requests)
            requests.append(_request(view, response.ids, shared))
        parts.append(_Part(len(requests), replaced_at.get(shared)))
        requests.append(_request(view, longer.ids, shared))
    return parts


def _request(view: SourceView, ids: tuple[int, ...], shared: int) -> ModelRequest:
    return view.request(view.prompt_ids + ids[:shared], ids[shared:])


def _check_fits(view: SourceView, longer: Canonical) -> None:
    limit = view.source.backend.context_length
    needed = len(view.prompt_ids) + len(longer.ids)
    if limit is not None and needed > limit:
        raise ContextLengthError(
            f"Scoring a candidate needs {needed} tokens, but the context window holds {limit}."
        )


def _collect(
    segments: Sequence[Segment], plan: list[_Part], answers: list[Scores]
) -> SegmentScores:
    log_likelihoods, num_tokens, log_first = [], [], []
    for part, segment in zip(plan, segments, strict=True):
        added = answers[part.added]
        log_likelihood = sum(added.log_probs)
        if part.replaced is not None:
            log_likelihood = _log_ratio(log_likelihood, sum(answers[part.replaced].log_probs))
        if segment.ends:
            log_likelihood += added.watched[-1]
        log_likelihoods.append(log_likelihood)
        num_tokens.append(max(1, len(added.log_probs) + segment.ends))
        log_first.append(added.log_probs[0] if added.log_probs else 0.0)
    return SegmentScores(
        tuple(log_likelihoods), tuple(num_tokens), tuple(log_first), _spent(num_tokens, answers)
    )


def _log_ratio(log_whole: float, log_before: float) -> float:
    """The logarithm of a conditional probability; NaN where the condition is impossible."""
    return math.nan if log_before == -math.inf else log_whole - log_before


def _spent(num_tokens: list[int], answers: Sequence[Scores | Distributions]) -> Usage:
    return Usage(
        num_scored=sum(num_tokens),
        num_forwarded=sum(answer.num_forwarded for answer in answers),
        num_passes=max(answer.num_passes for answer in answers),
    )


AFTER_A_SEGMENT: Final = np.array([*b" \t\n\v\f\r", END])


@final
class ByteScorer:
    """Scores segments by one source through the covers of their texts."""

    def __init__(self, source: Source) -> None:
        self._covering = Covering(source.tokenizer, source.backend.vocab_size)

    async def __call__(self, view: SourceView, segments: Sequence[Segment]) -> SegmentScores:
        """Score segments by the source of ``view``, in one pass over all their covers.

        Where no tokens spell a segment, it and its rivals are scored by canonical tokens. Such is
        a loose accent to a tokenizer that composes accents.
        """
        start = self._covering.begin(view.encoded)
        covers = [self._after(start, segment.text) for segment in segments]
        if not all(cover.branches for cover in covers):
            return await score(view, segments)
        unknown = list(dict.fromkeys(ids for cover in (start, *covers) for ids in cover.unknown))
        answers = await ask_distributions(
            [view.distribution_request(view.prompt_ids + ids) for ids in unknown]
        )
        rows = {ids: each.log_probs[0] for ids, each in zip(unknown, answers, strict=True)}
        known = [self._covering.learn(cover, rows) for cover in covers]
        first = self._covering.log_next(self._covering.learn(start, rows))
        num_tokens = [
            max(1, len(cover.canonical.ids) - len(view.encoded.ids) + segment.ends)
            for cover, segment in zip(covers, segments, strict=True)
        ]
        return SegmentScores(
            tuple(map(self._log_likelihood, known, segments)),
            tuple(num_tokens),
            tuple(float(first[s.text.encode()[0]]) if s.text else 0.0 for s in segments),
            _spent(num_tokens, answers),
        )

    def _after(self, cover: Cover, segment: str) -> Cover:
        """The cover with a segment added, whose distributions need not be known."""
        for byte in segment.encode():
            cover = self._covering.advance(cover, byte)
        return cover

    def _log_likelihood(self, cover: Cover, segment: Segment) -> float:
        if not segment.ends and is_unspaced(segment.text[-1]):
            return self._covering.log_total(cover)
        after = [END] if segment.ends else AFTER_A_SEGMENT
        return log_sum_exp(self._covering.log_next(cover)[after])
