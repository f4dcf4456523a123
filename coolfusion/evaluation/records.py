"""What systems answered, kept in an append-only file of JSON lines so that nothing is lost.

The first line, ``{"kind": "run", ...}``, holds the settings of the run; each other line is
one finished (system, row). A later line for the same pair replaces an earlier one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from types import TracebackType
from typing import Any, final

from coolfusion.checks.arguments import checked
from coolfusion.documents import number_from
from coolfusion.errors import UsageError
from coolfusion.evaluation.rows import check_unchanged
from coolfusion.evaluation.tasks import Row
from coolfusion.jsonlog import JsonLog
from coolfusion.types import StopReason

START = r'\{"kind": "(outcome|samples)", '


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one system made of one row.

    ``text`` is its answer. Where references are scored instead, ``log_likelihoods`` (nats) has
    one entry for each. ``value`` is given where another program has judged the answer. ``digest``
    is that of what it answered. ``num_forwarded``: tokens computed, by source; ``seconds``
    likewise its own, those of the outcomes it builds on (``needs``, by system name) not included.
    ``num_requested``: tokens drafted and scored, by source. Unlike those computed they follow from
    the answer, whatever was cached; a record of an earlier version does not have them.
    ``wins``: contested steps won, by source; for a reranked or voted answer, who wrote it.
    ``error`` says why there is no answer.
    """

    system: str
    row: str | int
    digest: str
    text: str = ""
    stop_reason: StopReason = StopReason.END
    log_likelihoods: tuple[float, ...] | None = None
    value: float | None = None
    error: str | None = None
    needs: tuple[str, ...] = ()
    num_forwarded: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    wins: Mapping[str, int] = field(default_factory=dict)
    num_steps: int = 0
    num_contested: int = 0
    num_requested: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_requested(self) -> int:
        """Tokens drafted and scored, by all sources together."""
        return sum(self.num_requested.values())

    @property
    def total_forwarded(self) -> float:
        """Tokens computed, by all sources together."""
        return sum(self.num_forwarded.values())


@final
class Record:
    """The outcomes of a run, in memory and, with a path, in a ``JsonLog``.

    Opening a file whose run had other ``settings`` raises ``UsageError`` naming those that
    differ. So does a file that no run can have written. Neither is changed.
    """

    @checked
    def __init__(
        self, path: str | PathLike[str] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.outcomes: dict[tuple[str, str | int], Outcome] = {}
        self.num_samples: dict[str, int] = {}
        self._log: JsonLog | None = None
        if path is not None:
            self._log = JsonLog(path, self._take, start=START, settings=settings or {})

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._log is not None:
            self._log.__exit__(kind, error, trace)

    def close(self) -> None:
        """Close the file; what was added stays readable in memory."""
        if self._log is not None:
            self._log.close()

    def begin(self) -> None:
        """Write the settings, if they are not there; the first outcome does so by itself."""
        if self._log is not None:
            self._log.begin()

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome, on disk before this returns."""
        self._append({"kind": "outcome", **_outcome_dict(outcome)})
        self.outcomes[outcome.system, outcome.row] = outcome

    def fix_samples(self, num_samples: Mapping[str, int]) -> None:
        """Keep how many samples of each source are drawn, so that a resumed run draws as many."""
        self._append({"kind": "samples", "num_samples": dict(num_samples)})
        self.num_samples = dict(num_samples)

    def check_rows(self, rows: Iterable[Row]) -> None:
        """Raise ``UsageError`` if a row asks something else than what was answered under its id."""
        answered: dict[str | int, set[str]] = {}
        for outcome in self.outcomes.values():
            answered.setdefault(outcome.row, set()).add(outcome.digest)
        changed = [
            f"{row.id!r} ({row.place})"
            for row in rows
            if answered.get(row.id, set()) - {row.digest(), row.digest(with_references=True)}
        ]
        check_unchanged("This run" if self._log is None else f'"{self._log.path}"', changed)

    def finished(
        self, system: str, row: Row, digest: str, needs: tuple[str, ...] = ()
    ) -> Outcome | None:
        """The outcome of ``row`` if there is one without an error that used these ``needs``.

        Raises ``UsageError`` if what was answered is not what ``digest`` says the row asks.
        """
        outcome = self.outcomes.get((system, row.id))
        if outcome is None:
            return None
        if outcome.digest != digest:
            raise UsageError(
                f"Row {row.id!r} ({row.place}) does not ask what this run has answered. Choose "
                "another output folder, or give the row another id."
            )
        return outcome if outcome.error is None and outcome.needs == needs else None

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.append(record)

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.pop("kind")
        if kind == "samples":
            self.num_samples = dict(record["num_samples"])
        elif kind == "outcome":
            outcome = _outcome(record)
            self.outcomes[outcome.system, outcome.row] = outcome
        else:
            raise ValueError(f"unknown kind {kind}")


def _outcome_dict(outcome: Outcome) -> dict[str, Any]:
    data = {**dataclasses.asdict(outcome), "stop_reason": outcome.stop_reason.value}
    if outcome.value is not None and math.isnan(outcome.value):
        data["value"] = "nan"  # null says that nobody has judged
    return data


def _outcome(record: dict[str, Any]) -> Outcome:
    values, value = record["log_likelihoods"], record["value"]
    return Outcome(
        **{
            **record,
            "stop_reason": StopReason(record["stop_reason"]),
            "needs": tuple(record["needs"]),
            "log_likelihoods": None if values is None else tuple(map(number_from, values)),
            "value": None if value is None else number_from(value),
            "num_forwarded": {
                name: number_from(count) for name, count in record["num_forwarded"].items()
            },
            "seconds": number_from(record["seconds"]),
        }
    )
