"""The systems of an evaluation: each turns rows into outcomes, some from others' outcomes.

    NAME                    a source alone, greedy or with the request's sampling
    fusion                  all sources, by the recipe
    mixture, mixture(RULE)  the sources' distributions mixed at every step, by a mixing rule
    rerank                  the sources' own answers, reranked together (the paper's Rerank)
    cool_r                  those and the fused answer (the paper's Cool+R)
    self_consistency(NAME)  a vote over samples of the best source, chosen in hindsight
    majority                a vote over samples of all sources

A system that builds on others uses their outcomes and never computes them again. Samples are
systems of their own, named NAME#0, NAME#1 and so on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coolfusion.backends.source import Source
from coolfusion.decoding.answers.rerank import (
    FUSED,
    Ranking,
    candidates_of,
    rerank,
)
from coolfusion.decoding.answers.vote import majority_vote
from coolfusion.decoding.decoder import Decoder
from coolfusion.decoding.mixture.options import Mixture, make_mixture
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.errors import PromptError, SourceError, UsageError
from coolfusion.evaluation.likelihood import log_likelihoods, mean, source_weights
from coolfusion.evaluation.records import Outcome
from coolfusion.evaluation.tasks import Row
from coolfusion.tokenization.prompts import Prompt, prompt_for, prompts_among
from coolfusion.types import Generation, StopReason

SYSTEMS = ("sources", "rerank", "cool_r", "self_consistency", "majority", FUSED)
MIXED = "mixture"

Outcomes = Mapping[tuple[str, str | int], Outcome]
PromptOf = Callable[[Row], Prompt]
RequestOf = Callable[[Row], Request]


@dataclass(frozen=True, slots=True)
class System:
    """A named way to answer.

    ``answer`` maps rows, and the outcomes of the systems in ``needs``, to outcomes in the order in
    which they finish. An outcome without an ``error`` is final.
    """

    name: str
    answer: Callable[[Sequence[Row], Outcomes], Iterator[Outcome]]
    needs: tuple[str, ...] = ()
    scores_references: bool = False

    def digest(self, row: Row) -> str:
        """The fingerprint of a row as far as this system depends on it."""
        return row.digest(with_references=self.scores_references)


def is_mixture(name: str) -> bool:
    """Whether a system is a mixture, by its name."""
    return name == MIXED or name.startswith(f"{MIXED}(")


def mixture_named(name: str, recipe: Recipe) -> Mixture:
    """The mixture called ``name``, with the recipe's weights. Raises ``UsageError`` for a bad rule."""
    if name != MIXED and not name.endswith(")"):
        raise UsageError(f'There is no system "{name}". Write {MIXED} or {MIXED}(RULE).')
    rule = name[len(MIXED) + 1 : -1] or None
    return make_mixture(rule, weights=recipe.weights, prior=recipe.prior)


def decoding(
    name: str,
    decoder: Decoder[Any],
    request_of: RequestOf,
    prompt_of: PromptOf,
    batch_size: int,
) -> System:
    """A system that decodes: a source alone, one of its samples, or the fusion."""
    names = [source.name for source in decoder.sources]

    def answer(rows: Sequence[Row], _: Outcomes) -> Iterator[Outcome]:
        accepted: list[tuple[Row, Prompt]] = []
        for row in rows:
            try:
                prompt = prompts_among(prompt_of(row), names)
                decoder.start(prompt, request_of(row))
                accepted.append((row, prompt))
            except PromptError as error:
                yield Outcome(name, row.id, row.digest(), error=str(error))
        prompts = [prompt for _, prompt in accepted]
        requests = [request_of(row) for row, _ in accepted]
        for index, generation in decoder.generate_each(prompts, requests, max_rows=batch_size):
            yield _decoded(name, accepted[index][0], generation)

    return System(name, answer)


def _decoded(name: str, row: Row, generation: Generation) -> Outcome:
    stats = generation.stats
    wins = dict.fromkeys(generation.sources, 0)
    for step in generation.steps:
        for drafter in step.drafters if step.contested else ():
            wins[drafter] += 1
    failed = generation.stop_reason is StopReason.SOURCES_FAILED
    return Outcome(
        name,
        row.id,
        row.digest(),
        generation.text,
        generation.stop_reason,
        error=" ".join(generation.warnings) or "Every source failed." if failed else None,
        num_forwarded={source: spent.num_forwarded for source, spent in stats.usage.items()},
        seconds=stats.seconds,
        wins=wins,
        num_steps=stats.num_steps,
        num_contested=stats.num_contested,
        num_requested={
            source: spent.num_drafted + spent.num_scored for source, spent in stats.usage.items()
        },
    )


def reranking(
    name: str,
    decoder: SegmentDecoder,
    needs: Sequence[str],
    prompt_of: PromptOf,
    *,
    batch_size: int,
    on_source_error: str = "drop",
) -> System:
    """A system that selects among the answers of ``needs`` with the decoder's reranker."""
    needed = tuple(needs)

    def answer(rows: Sequence[Row], outcomes: Outcomes) -> Iterator[Outcome]:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            answers = [[outcomes[need, row.id] for need in needed] for row in some]
            candidates = [
                candidates_of([(each.system, each.text, each.stop_reason) for each in entries])
                for entries in answers
            ]
            prompts = [prompt_of(row) for row in some]
            rankings = rerank(
                decoder.sources,
                prompts,
                candidates,
                decoder.recipe.reranker,
                on_source_error=on_source_error,
                weights=decoder.recipe.weights,
            )
            for row, ranking, entries in zip(some, rankings, answers, strict=True):
                yield _reranked(name, row, ranking, entries)

    return System(name, answer, needed)


def _reranked(name: str, row: Row, ranking: Ranking, answers: Sequence[Outcome]) -> Outcome:
    needs = tuple(each.system for each in answers)
    if ranking.winner is None:
        return Outcome(name, row.id, row.digest(), error="No source had an answer.", needs=needs)
    author = answers[needs.index(ranking.drafters[0])]
    return Outcome(
        name,
        row.id,
        row.digest(),
        ranking.text,
        author.stop_reason,
        needs=needs,
        num_forwarded={
            source: spent.num_forwarded
            for source, spent in zip(ranking.sources, ranking.usage, strict=True)
        },
        seconds=ranking.seconds,
        wins={need: int(need in ranking.drafters) for need in needs},
    )


def voting(
    name: str,
    samples: Mapping[str, str],
    extract: Callable[[Row], Callable[[str], str | None]],
) -> System:
    """A system that takes the majority answer of ``samples``, a map from systems to sources."""
    needs = tuple(samples)

    def answer(rows: Sequence[Row], outcomes: Outcomes) -> Iterator[Outcome]:
        for row in rows:
            answers = [outcomes[need, row.id] for need in needs]
            vote = majority_vote([each.text for each in answers], extract(row))
            wins = dict.fromkeys(samples.values(), 0)
            wins[samples[needs[vote.winner]]] = 1
            chosen = answers[vote.winner]
            yield Outcome(
                name, row.id, row.digest(), vote.text, chosen.stop_reason, needs=needs, wins=wins
            )

    return System(name, answer, needs)


def scoring(source: Source, prompt_of: PromptOf, batch_size: int) -> System:
    """A system without answers: log-likelihoods of the references under one source."""

    def answer(rows: Sequence[Row], _: Outcomes) -> Iterator[Outcome]:
        accepted: list[tuple[Row, tuple[int, ...]]] = []
        for row in rows:
            try:
                own = prompt_for(prompt_of(row), source.name)
                accepted.append((row, source.tokenizer.encode_prompt(own)))
            except PromptError as error:
                yield _unscored(source.name, row, error)
        for start in range(0, len(accepted), batch_size):
            begun = time.perf_counter()
            some = accepted[start : start + batch_size]
            scored = log_likelihoods(
                source, [ids for _, ids in some], [row.references for row, _ in some]
            )
            seconds = (time.perf_counter() - begun) / len(some)
            for (row, _ids), scores in zip(some, scored, strict=True):
                if isinstance(scores, SourceError):
                    yield _unscored(source.name, row, scores)
                    continue
                yield Outcome(
                    source.name,
                    row.id,
                    row.digest(with_references=True),
                    log_likelihoods=scores.log_likelihoods,
                    num_forwarded={source.name: scores.usage.num_forwarded},
                    seconds=seconds,
                )

    return System(source.name, answer, scores_references=True)


def _unscored(name: str, row: Row, error: Exception) -> Outcome:
    return Outcome(name, row.id, row.digest(with_references=True), error=str(error))


def combining(name: str, decoder: SegmentDecoder) -> System:
    """A system without answers: the sources' mean log-likelihood, by the recipe's weights."""
    needs = tuple(source.name for source in decoder.sources)
    weights = source_weights(needs, decoder.recipe.weights)

    def answer(rows: Sequence[Row], outcomes: Outcomes) -> Iterator[Outcome]:
        for row in rows:
            table = np.array([outcomes[need, row.id].log_likelihoods for need in needs]).T
            yield Outcome(
                name,
                row.id,
                row.digest(with_references=True),
                log_likelihoods=tuple(float(value) for value in mean(table, weights)),
                needs=needs,
            )

    return System(name, answer, needs, scores_references=True)
