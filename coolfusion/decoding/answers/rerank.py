"""Whole answers, reranked together.

The paper's coarse-grained relatives of the fusion loop (arXiv 2407.19807). Each source answers
on its own; every source scores every distinct answer as one segment that follows the prompt; a
reranker chooses (Rerank). In Cool+R the fused answer joins them. With
``y_c`` a whole answer and ``x_k`` source ``k``'s prompt ids, the score table holds

    L[c, k] = log p_k(E_k(y_c) | x_k)  (+ log p_k(end | x_k, E_k(y_c)) if y_c was ended)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coolfusion.backends.source import Source
from coolfusion.checks.arguments import check_setting, checked
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.contest import cheapest, costs_of, judged, score_table
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.rerankers import Reranker, mean_nll
from coolfusion.decoding.segments.scoring import Segment, SegmentScores, score_requests
from coolfusion.decoding.segments.zeros import excluding, noted, voting
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import SourceError, UsageError
from coolfusion.tokenization.prompts import Prompt, prompt_for
from coolfusion.types import (
    Candidate,
    Floats,
    Generation,
    SkippedSource,
    StopReason,
    Usage,
)

FUSED = "fusion"  # who drafted the answer that all sources wrote together


MAX_SAMPLES = 10_000  # of one source and prompt, far beyond what a vote can use


@dataclass(frozen=True, slots=True)
class Ranking:
    """Whole answers and what the sources think of them.

    ``candidates`` are in the order of their first drafter; their scores, the names in
    ``sources`` and ``usage`` are aligned. ``winner`` indexes ``candidates``; None: no source
    had an answer. ``dropped`` says which sources could not judge, and why. ``zeros`` say which
    gave probability 0 to an answer, and what followed (``coolfusion.decoding.segments.zeros``).
    """

    sources: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    winner: int | None
    dropped: tuple[SkippedSource, ...]
    usage: tuple[Usage, ...]
    seconds: float
    zeros: tuple[SkippedSource, ...] = ()

    @property
    def text(self) -> str:
        """The chosen answer, empty where there is none."""
        return "" if self.winner is None else self.candidates[self.winner].text

    @property
    def drafters(self) -> tuple[str, ...]:
        """Who wrote the chosen answer."""
        return () if self.winner is None else self.candidates[self.winner].drafters

    @checked
    def n_best(self, count: int | None = None) -> tuple[Candidate, ...]:
        """The ``count`` best candidates (None: all), lowest cost first; ties keep their order."""
        costs = [_comparable(candidate.cost) for candidate in self.candidates]
        order = sorted(range(len(costs)), key=costs.__getitem__)
        return tuple(self.candidates[index] for index in order[:count])


def own_answers(
    source: Source, prompts: Sequence[Prompt], request: Request | None = None
) -> list[Generation]:
    """What one source answers when it decodes alone, one response per prompt."""
    own = [prompt_for(prompt, source.name) for prompt in prompts]
    return SegmentDecoder([source]).generate_batch(own, request)


def sample_requests(request: Request, num_samples: int) -> list[Request]:
    """The same request with ``num_samples`` seeds in a row, beginning with its own.

    Raises ``UsageError`` for several samples of a greedy request, which would all be the same.
    """
    usable = 1 <= num_samples <= MAX_SAMPLES
    check_setting(usable, "num_samples", num_samples, f"at least 1, and at most {MAX_SAMPLES}")
    sampling = request.sampling
    if num_samples > 1 and sampling.is_greedy:
        raise UsageError(
            f"{num_samples} samples at temperature 0 would all be the same. Set a temperature."
        )
    return [
        replace(request, sampling=replace(sampling, seed=sampling.seed + number))
        for number in range(num_samples)
    ]


def candidates_of(answers: Sequence[tuple[str, str, StopReason]]) -> tuple[Candidate, ...]:
    """Distinct candidates from (drafter, text, stop reason), in the order given.

    Equal texts become one candidate, which ends if any of its drafters ended it. An answer
    that broke off because its source failed is left out, and so is one with no text that
    nobody ended.
    """
    drafters: dict[str, list[str]] = {}
    ended = set()
    for drafter, text, stop_reason in answers:
        ends = stop_reason is StopReason.END
        if stop_reason is StopReason.SOURCES_FAILED or not (text or ends):
            continue
        names = drafters.setdefault(text, [])
        names += [] if drafter in names else [drafter]
        if ends:
            ended.add(text)
    return tuple(Candidate(text, text in ended, tuple(names)) for text, names in drafters.items())


@checked
def rerank(
    sources: Sequence[Source],
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    reranker: Reranker = mean_nll,
    *,
    on_source_error: str = "drop",
    weights: Mapping[str, float] | None = None,
) -> list[Ranking]:
    """Let all sources score the whole answers to each prompt, and the reranker choose.

    ``candidates`` has one sequence per prompt; a single candidate wins unscored. A source that
    cannot score a prompt's candidates is dropped as a judge of that prompt. They may not fit into
    its context window, or its model may fail. With ``on_source_error="raise"``, its
    ``SourceError`` is raised. With no judge left the first candidate wins. ``weights`` (none:
    equal ones) say who counts where others abstain, as a recipe's do.
    """
    if len(prompts) != len(candidates):
        raise UsageError(
            f"candidates has {len(candidates)} entries for {len(prompts)} prompts. Give one each."
        )
    begun = time.perf_counter()
    rows = [row for row, entries in enumerate(candidates) if len(entries) > 1]
    scores: list[dict[str, SegmentScores | SourceError]] = [{} for _ in prompts]
    for source in sources:
        views = [
            SourceView(
                0, source, source.tokenizer.encode_prompt(prompt_for(prompts[row], source.name))
            )
            for row in rows
        ]
        segments = [[Segment(each.text, each.ends) for each in candidates[row]] for row in rows]
        answers = score_requests(zip(views, segments, strict=True), AnswerCache(source.backend))
        for row, scored in zip(rows, answers, strict=True):
            if isinstance(scored, SourceError) and on_source_error == "raise":
                raise scored
            scores[row][source.name] = scored
    names = tuple(source.name for source in sources)
    rankings = [
        _ranking(names, entries, given, reranker, weights or {})
        for entries, given in zip(candidates, scores, strict=True)
    ]
    seconds = (time.perf_counter() - begun) / max(1, len(prompts))
    return [replace(ranking, seconds=seconds) for ranking in rankings]


@checked
def rerank_answers(
    decoder: SegmentDecoder,
    prompts: Sequence[Prompt],
    request: Request | None = None,
    *,
    with_fused: bool = False,
    num_samples: int = 1,
) -> list[Ranking]:
    """Rerank the sources' own answers, or with ``with_fused`` those and the fused one (Cool+R).

    Each source gives ``num_samples`` answers; the decoder's recipe has the reranker. The
    rankings' usage and seconds include the answering.
    """
    request = request or Request()
    drafted: list[tuple[str, list[Generation]]] = [
        (source.name, own_answers(source, prompts, sample))
        for source in decoder.sources
        for sample in sample_requests(request, num_samples)
    ]
    if with_fused:
        drafted.append((FUSED, decoder.generate_batch(prompts, request)))
    candidates = [
        candidates_of([(name, each[row].text, each[row].stop_reason) for name, each in drafted])
        for row in range(len(prompts))
    ]
    rankings = rerank(
        decoder.sources,
        prompts,
        candidates,
        decoder.recipe.reranker,
        on_source_error=request.on_source_error,
        weights=decoder.recipe.weights,
    )
    return [
        _with_cost(ranking, [each[row] for _, each in drafted])
        for row, ranking in enumerate(rankings)
    ]


def _ranking(
    names: tuple[str, ...],
    candidates: Sequence[Candidate],
    given: Mapping[str, SegmentScores | SourceError],
    reranker: Reranker,
    weights: Mapping[str, float],
) -> Ranking:
    scores = {name: each for name, each in given.items() if isinstance(each, SegmentScores)}
    dropped = tuple(
        SkippedSource(name, str(each))
        for name, each in given.items()
        if isinstance(each, SourceError)
    )
    usage = tuple(scores[name].usage if name in scores else Usage() for name in names)
    if not scores:
        return Ranking(names, tuple(candidates), 0 if candidates else None, dropped, usage, 0.0)
    reasons = excluding(candidates, scores)
    votes = voting(tuple(scores), reasons, _given(weights, tuple(scores)))
    zeros = tuple(SkippedSource(*each) for each in noted(reasons, votes).items())
    costs = costs_of(reranker, score_table(candidates, {name: scores[name] for name in votes}))
    ranked = tuple(
        judged(candidate, c, names, scores, float(costs[c]))
        for c, candidate in enumerate(candidates)
    )
    return Ranking(names, ranked, cheapest(costs), dropped, usage, 0.0, zeros)


def _given(weights: Mapping[str, float], names: Sequence[str]) -> Floats:
    """The weights of these sources; equal ones where none has any."""
    given = np.array([weights.get(name, 0.0) for name in names])
    return given if given.any() else np.ones(len(names))


def _with_cost(ranking: Ranking, answers: Sequence[Generation]) -> Ranking:
    """``ranking`` with what answering took beside what scoring took."""
    usage = dict(zip(ranking.sources, ranking.usage, strict=True))
    for answer in answers:
        for name, spent in answer.stats.usage.items():
            usage[name] += spent
    seconds = ranking.seconds + sum(answer.stats.seconds for answer in answers)
    return replace(ranking, usage=tuple(usage.values()), seconds=seconds)


def _comparable(cost: float | None) -> float:
    return float("inf") if cost is None or math.isnan(cost) else cost
