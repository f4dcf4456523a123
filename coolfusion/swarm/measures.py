"""Measures of a particle: a metric over rows, a task of lm-evaluation-harness, or a function.

A measure gives a number that is higher for better particles. A metric m with lower values for
better ones (bits per byte, a perplexity) becomes 1 / (1 + m). That keeps the order of particles.
It is also positive, so harmonic means exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from importlib import import_module
from numbers import Real
from typing import Any, Protocol

from coolfusion.checks.arguments import checked_fields
from coolfusion.decoding.request import request
from coolfusion.documents import json_text
from coolfusion.errors import BatchError, CoolfusionError, NonFiniteError, SourceError, UsageError
from coolfusion.evaluation import EvaluationPlan, Record, Row, Task, evaluate
from coolfusion.evaluation.likelihood import log_likelihoods
from coolfusion.evaluation.plan import row_metrics
from coolfusion.fusion import FusionModel
from coolfusion.swarm.particle import BrokenParticleError, Particle
from coolfusion.tokenization.prompts import Message, Prompt, prompt_for

MAX_ROWS = 200  # development examples, as in the paper


class Measure(Protocol):
    """One number for a particle."""

    @property
    def name(self) -> str:
        """The name in reports."""

    def value(self, particle: Particle) -> float:
        """The number; higher is better. Raises ``BrokenParticleError`` if the model does not work."""

    def identity(self) -> Mapping[str, Any]:
        """JSON-ready data that differs between measures whose values could differ."""


@dataclass(frozen=True, slots=True)
@checked_fields
class Answering:
    """How a particle answers: greedily, with its chat template unless ``raw``."""

    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    system: str | None = None
    raw: bool = False
    batch_size: int = 32

    def prompt_of(self, model: FusionModel, row: Row) -> Prompt:
        """The prompt of a row. Raises ``UsageError`` for a system message without a template."""
        if not isinstance(row.prompt, str) or self.raw:
            return row.prompt
        if not model.has_chat_templates:
            if self.system is None:
                return row.prompt
            raise UsageError(
                "The experts have no chat template, so there is no place for a system message. Leave it out."
            )
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": row.prompt}]


@dataclass(frozen=True, slots=True)
@checked_fields
class TaskMeasure:
    """The mean of an evaluation metric over the rows of a task, answered greedily.

    Raises ``UsageError`` for an unknown metric and for more than 200 rows (use
    ``task.first(200)``).
    """

    task: Task
    metric: str = "exact_match"
    answering: Answering = field(default_factory=Answering)

    def __post_init__(self) -> None:
        row_metrics(self.task, self.metric)
        if len(self.task.rows) > MAX_ROWS:
            raise UsageError(
                f"The task {self.task.name} has {len(self.task.rows)} rows; every particle would answer all of them. "
                f"Use the first {MAX_ROWS} or fewer."
            )

    @property
    def name(self) -> str:
        """The task and the metric."""
        return f"{self.task.name} ({self.metric})"

    def value(self, particle: Particle) -> float:
        """The mean. Raises ``CoolfusionError`` for rows that cannot be answered or judged."""
        record, model, how = Record(), particle.model, self.answering
        try:
            report = evaluate(
                model.decoder,
                self.task,
                metric=self.metric,
                request=request(
                    max_new_tokens=how.max_new_tokens, stop=how.stop, on_source_error="raise"
                ),
                plan=EvaluationPlan(systems=(), batch_size=how.batch_size),
                record=record,
                prompt_of=lambda row: how.prompt_of(model, row),
            )
        except SourceError as error:
            if not _is_not_finite(error):
                raise
            raise BrokenParticleError(f"{self.name}: {error}") from error
        for row in self.task.rows:
            problem = next(o.error for o in record.outcomes.values() if o.row == row.id)
            if problem is not None:
                self._check_finite(model, row)
                raise CoolfusionError(f"{self.name}: row {row.id!r} has no answer. {problem}")
        if report.failures:
            raise CoolfusionError(report.failures[0])
        mean = report.results[0].mean
        return mean if report.higher_is_better else falling(self.name, mean)

    def _check_finite(self, model: FusionModel, row: Row) -> None:
        """Raise ``BrokenParticleError`` if scoring a row's references gives NaN or infinity."""
        (source,) = model.sources
        asked = prompt_for(self.answering.prompt_of(model, row), source.name)
        prompt = source.tokenizer.encode_prompt(asked)
        (scores,) = log_likelihoods(source, [prompt], [row.references])
        if isinstance(scores, NonFiniteError):
            raise BrokenParticleError(f"{self.name}: {scores}") from scores

    def identity(self) -> Mapping[str, Any]:
        """The rows by a fingerprint, and how they are asked and judged."""
        rows = json_text(
            [[row.prompt, row.references, row.metric, dict(row.options)] for row in self.task.rows],
            ascii_only=True,
        )
        how = asdict(self.answering)
        del how["batch_size"]  # changes no answer
        return {
            "task": self.task.name,
            "rows": blake2b(rows.encode(), digest_size=8).hexdigest(),
            "metric": self.metric,
            **how,
            "stop": list(self.answering.stop),
        }


@dataclass(frozen=True, slots=True)
@checked_fields
class HarnessMeasure:
    """A metric of a task or group of lm-evaluation-harness, aggregated by the harness.

    ``metric`` is one of the task's (None: its first). ``limit`` is the number of rows of each
    task. ``include_path`` is a folder of your own task files, used instead of the harness's.
    """

    task: str
    metric: str | None = None
    limit: int = MAX_ROWS
    include_path: str | None = None
    answering: Answering = field(default_factory=Answering)

    @property
    def name(self) -> str:
        """The task and the metric."""
        return f"lm_eval:{self.task}" + (f" ({self.metric})" if self.metric else "")

    def value(self, particle: Particle) -> float:
        """The metric. Raises ``UsageError`` if the harness, the task or the metric is missing."""
        try:
            from coolfusion.swarm.harness_score import harness_value  # noqa: PLC0415  an extra
        except ImportError as error:
            raise UsageError(
                f'{self.name} needs lm-evaluation-harness ({error}). Install it with: pip install "coolfusion[harness]".'
            ) from None
        how = self.answering
        try:
            value, higher = harness_value(
                particle.model,
                self.task,
                metric=self.metric,
                limit=self.limit,
                include_path=self.include_path,
                apply_chat_template=not how.raw and particle.model.has_chat_templates,
                max_new_tokens=how.max_new_tokens,
                batch_size=how.batch_size,
            )
        except SourceError as error:
            if not _is_not_finite(error):
                raise
            raise BrokenParticleError(f"{self.name}: {error}") from error
        return value if higher else falling(self.name, value)

    def identity(self) -> Mapping[str, Any]:
        """All settings except the batch size."""
        return {
            "lm_eval": self.task,
            "metric": self.metric,
            "limit": self.limit,
            "include_path": self.include_path,
            "raw": self.answering.raw,
            "max_new_tokens": self.answering.max_new_tokens,
        }


@dataclass(frozen=True, slots=True)
@checked_fields
class FunctionMeasure:
    """Your own function, called with (folder of the particle's checkpoint, device).

    It is named "package.module:function". It returns a number, higher for better particles, or
    minus infinity for a particle that does not work. Raises ``UsageError`` if it cannot be
    imported.
    """

    function: str

    def __post_init__(self) -> None:
        self._imported()

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function

    def value(self, particle: Particle) -> float:
        """The function's number. Raises ``CoolfusionError`` if the function fails."""
        call = self._imported()
        try:
            value = call(particle.folder, particle.device)
        except Exception as error:
            raise CoolfusionError(
                f"The utility {self.function} failed: {type(error).__name__}: {error}. Finished evaluations are "
                "kept; mend it and run again."
            ) from error
        if not isinstance(value, Real) or math.isnan(value) or value == math.inf:
            raise CoolfusionError(
                f"The utility {self.function} gave {value!r}; it must be a number, or minus infinity for a model "
                "that does not work."
            )
        if value == -math.inf:
            raise BrokenParticleError(f"{self.function} gave minus infinity.")
        return float(value)

    def identity(self) -> Mapping[str, Any]:
        """The name; the code of the function is not compared."""
        return {"function": self.function}

    def _imported(self) -> Any:
        module, _, name = self.function.partition(":")
        try:
            found = getattr(import_module(module), name)
        except Exception as error:
            raise UsageError(
                f'The utility "{self.function}" cannot be imported: {type(error).__name__}: {error}. '
                "Name it package.module:function."
            ) from error
        if not callable(found):
            raise UsageError(f'The utility "{self.function}" is {found!r}, not a function.')
        return found


def falling(name: str, value: float) -> float:
    """1 / (1 + value), which turns a metric with lower values for better into one with higher.

    Raises ``CoolfusionError`` for a negative value.
    """
    if not value >= 0:
        raise CoolfusionError(
            f"{name} is {value}; a metric where lower is better must be 0 or above here."
        )
    return 1 / (1 + value)


def _is_not_finite(error: SourceError) -> bool:
    """Whether a model returned NaN or infinity, in one row of a batch or in all."""
    errors = error.errors.values() if isinstance(error, BatchError) else [error]
    return any(isinstance(each, NonFiniteError) for each in errors)
