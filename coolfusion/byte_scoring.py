"""Scoring by bytes: what a source thinks of a segment's text, however it would cut it into tokens.

The likelihood of a segment's canonical tokens depends on the tokenizer beyond the text: a source
with a token for every word says with `` cat`` that no ``egory`` follows, a source with shorter
tokens does not. Scored by bytes, a segment ``y`` after the response ``s`` gets from every source

    L = log sum_b F(s y b) - log F(s)

over what may come where a segment is cut: white space and the end (anything, after a script that
is written without spaces), with ``F`` the sum over covers of ``coolfusion.tokenization.covers``. A segment that
ends the response gets the end alone.
"""

from __future__ import annotations

from typing import Final, final

import numpy as np

from coolfusion.asking import AskDistributions, Talk, ask_distributions
from coolfusion.backends.base import Query
from coolfusion.backends.sampling import log_total
from coolfusion.backends.source import Source
from coolfusion.scoring import ScoreRequest, SegmentScores, score
from coolfusion.tokenization.boundaries import is_unspaced
from coolfusion.tokenization.covers import END, Cover, Covering
from coolfusion.types import Usage

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
        prompt, lane = request.prompt, request.lane
        answers = yield from ask_distributions(
            [AskDistributions(k, Query(prompt + ids, lane=lane)) for ids in unknown]
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
