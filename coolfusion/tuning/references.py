"""The log-likelihood of a reference under a fusion, without decoding anything.

Each source scores each segment of the reference once. ``L[s, k]`` (nats) is the log-likelihood of
segment ``s`` under source ``k``, after its own prompt and the segments before. With weights
``w[k]``:

    log p(reference) = sum_s log sum_k w[k] exp(L[s, k])

This is the sources' mixture over segments, whose cost the reranker ``mixture`` computes. It is
concave in the weights. Its maximum lies between the sources if they are good at different
segments. The weighted mean of whole log-likelihoods would not do: it is linear in the weights, so
its maximum is always one source alone. A source alone is the mixture of one. To tune by this
likelihood is our own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from coolfusion.backends.source import Source
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.scoring import Segment, score_requests
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import PromptError, SourceError
from coolfusion.evaluation.likelihood import mixture, source_weights
from coolfusion.evaluation.metrics import Metric
from coolfusion.evaluation.records import Outcome, Record
from coolfusion.evaluation.run import answer_rows
from coolfusion.evaluation.systems import PromptOf, System
from coolfusion.evaluation.tasks import Row
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.tokenization.boundaries import Boundary
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.prompts import prompt_for
from coolfusion.tuning.objectives import (
    Contender,
    Measured,
    RowsDone,
    measured,
    recipe_of,
)


@dataclass(frozen=True, slots=True)
class References:
    """Measures the references' log-likelihood in bits per UTF-8 byte; lower is better.

    ``base`` is the recipe with the boundary for sources alone. ``tried`` collects the rows scored
    in this process, so that a failed row is not repeated for every contender.
    """

    sources: tuple[Source, ...]
    base: Recipe
    metrics: Mapping[str | int, Metric]
    prompt_of: PromptOf
    record: Record
    tried: set[tuple[str, str | int]] = field(default_factory=set)

    @property
    def higher_is_better(self) -> bool:
        """Fewer bits are better."""
        return False

    def measure(self, contender: Contender, rows: Sequence[Row], progress: RowsDone) -> Measured:
        """Let every source score the rows that it has not scored yet, and combine the scores."""
        alone = contender.config is None
        recipe = (
            self.base if contender.config is None else recipe_of(contender.config, self.sources)
        )
        judges = [s for s in self.sources if not alone or s.name == contender.name]
        for number, source in enumerate(judges):
            self._score(source, recipe.boundary, rows, _Shifted(progress, number, len(judges)))
        outcomes = {
            (contender.system, row.id): self._combined(contender.system, row, judges, recipe)
            for row in rows
        }
        return measured(contender.system, rows, self.metrics, outcomes)

    def _score(
        self, source: Source, boundary: Boundary, rows: Sequence[Row], progress: RowsDone
    ) -> None:
        system = System(
            _scored_by(source, boundary),
            lambda some, _: self._scored(source, boundary, some),
            scores_references=True,
        )
        todo = [row for row in rows if (system.name, row.id) not in self.tried]
        if not todo:
            return progress(len(rows), len(rows))
        self.tried.update((system.name, row.id) for row in todo)
        answer_rows(system, todo, self.record, progress)

    def _scored(self, source: Source, boundary: Boundary, rows: Sequence[Row]) -> Iterator[Outcome]:
        """The log-likelihood of every segment of every reference under one source."""
        system, cache = _scored_by(source, boundary), AnswerCache(source.backend)
        for row in rows:
            begun = time.perf_counter()
            digest = row.digest(with_references=True)
            try:
                own = prompt_for(self.prompt_of(row), source.name)
                prompt = source.tokenizer.encode_prompt(own)
                requests = self._requests(source, prompt, row, boundary)
            except PromptError as error:
                yield Outcome(system, row.id, digest, error=str(error))
                continue
            scores = score_requests(requests, cache)
            good = [each for each in scores if not isinstance(each, SourceError)]
            if len(good) < len(scores):
                failed = next(each for each in scores if isinstance(each, SourceError))
                yield Outcome(system, row.id, digest, error=str(failed))
                continue
            yield Outcome(
                system,
                row.id,
                digest,
                log_likelihoods=tuple(each.log_likelihoods[0] for each in good),
                num_forwarded={source.name: sum(each.usage.num_forwarded for each in good)},
                num_requested={source.name: sum(each.usage.num_scored for each in good)},
                seconds=time.perf_counter() - begun,
            )

    def _requests(
        self, source: Source, prompt: tuple[int, ...], row: Row, boundary: Boundary
    ) -> list[tuple[SourceView, list[Segment]]]:
        """One request per segment, each after what stands before it; a reference is one sequence."""
        requests = []
        for sequence_id, reference in enumerate(row.references):
            before = Canonical()
            for segment in self._segments(reference, boundary):
                view = SourceView(0, source, prompt, before, sequence_id=sequence_id)
                requests.append((view, [Segment(segment)]))
                before = extend(before, segment, source.tokenizer)
        return requests

    def _segments(self, reference: str, boundary: Boundary) -> list[str]:
        """The segments of a reference, cut at boundaries that every tokenizer ratifies."""
        tokenizers = [source.tokenizer for source in self.sources]
        edges = [0, *ratified_cuts(reference, boundary, tokenizers), len(reference)]
        return [reference[a:b] for a, b in itertools.pairwise(edges)]

    def _combined(self, system: str, row: Row, judges: Sequence[Source], recipe: Recipe) -> Outcome:
        """The log-likelihood of each reference under the mixture of ``judges``."""
        digest = row.digest(with_references=True)
        kept = [
            self.record.outcomes[_scored_by(source, recipe.boundary), row.id] for source in judges
        ]
        error = next((outcome.error for outcome in kept if outcome.error is not None), None)
        if error is not None:
            return Outcome(system, row.id, digest, error=error)
        weights = source_weights([source.name for source in judges], recipe.weights)
        table = np.array([outcome.log_likelihoods for outcome in kept], dtype=np.float64).T
        found, start = [], 0
        for reference in row.references:
            end = start + len(self._segments(reference, recipe.boundary))
            found.append(float(mixture(table[start:end], weights).sum()))
            start = end
        spent = {name: n for outcome in kept for name, n in outcome.num_forwarded.items()}
        requested = {name: n for outcome in kept for name, n in outcome.num_requested.items()}
        return Outcome(
            system,
            row.id,
            digest,
            log_likelihoods=tuple(found),
            num_forwarded=spent,
            num_requested=requested,
        )


@dataclass(frozen=True, slots=True)
class _Shifted:
    """The progress of one source as part of the progress of several."""

    progress: RowsDone
    number: int
    count: int

    def __call__(self, done: int, total: int) -> None:
        self.progress(self.number * total + done, self.count * total)


def _scored_by(source: Source, boundary: Boundary) -> str:
    return f"{source.name} by {boundary.name}"
