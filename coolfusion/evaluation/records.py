"""What systems answered, kept in an append-only file of JSON lines so that nothing is lost.

The first line, ``{"kind": "run", ...}``, holds the settings of the run; each other line is
one finished (system, row), written whole and at once. A later line for the same pair
replaces an earlier one, and a last line that was cut off is taken away on opening.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, Any, final

from coolfusion.errors import UsageError
from coolfusion.evaluation.tasks import Row
from coolfusion.types import StopReason

RUN_START = b'{"kind": "'


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one system made of one row.

    ``text`` is its answer; or, where references are scored instead, ``log_likelihoods`` (nats)
    has one entry for each; ``value`` is given where someone else has judged it already.
    ``digest`` is that of what it answered. ``num_forwarded``: tokens computed, by source; ``seconds`` likewise its own, those of the
    outcomes it builds on (``needs``, by system name) not included. ``wins``: contested steps
    won, by source; for a reranked or voted answer, who wrote it. ``error`` says why there is
    no answer.
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

    @property
    def total_forwarded(self) -> float:
        """Tokens computed, by all sources together."""
        return sum(self.num_forwarded.values())


@final
class Record:
    """The outcomes of a run, in memory and, with a path, on disk.

    Opening a file whose run had other ``settings`` raises ``UsageError`` naming the setting
    that differs, as does a file that no run can have written; nothing is changed then.
    """

    def __init__(
        self, path: str | PathLike[str] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.outcomes: dict[tuple[str, str | int], Outcome] = {}
        self.num_samples: dict[str, int] = {}
        self._file: IO[str] | None = None
        self._heading: dict[str, Any] | None = None
        if path is not None:
            self._open(Path(path), json.loads(json.dumps(dict(settings or {}))))

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was added stays readable in memory."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self) -> None:
        """Write the settings, if they are not there; the first outcome does so by itself."""
        if self._heading is not None:
            self._write_line(self._heading)
            self._heading = None

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome, on disk before this returns."""
        self.outcomes[outcome.system, outcome.row] = outcome
        self._write({"kind": "outcome", **_outcome_dict(outcome)})

    def fix_samples(self, num_samples: Mapping[str, int]) -> None:
        """Keep how many samples of each source are drawn, so that a resumed run draws as many."""
        self.num_samples = dict(num_samples)
        self._write({"kind": "samples", "num_samples": self.num_samples})

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

    def _open(self, path: Path, settings: dict[str, Any]) -> None:
        data = path.read_bytes() if path.exists() else b""
        whole, torn = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
        if torn and not (torn.startswith(RUN_START) or RUN_START.startswith(torn)):
            raise _foreign(path, whole.count(b"\n") + 1)
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            self._read(path, number, line, settings)
        if torn:
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self._file = path.open("a", encoding="utf-8")
        self._heading = None if whole else {"kind": "run", "settings": settings}

    def _read(self, path: Path, number: int, line: bytes, settings: dict[str, Any]) -> None:
        try:
            record = json.loads(line)
            kind = record.pop("kind")
            if (kind == "run") != (number == 1):
                raise ValueError(f"unexpected {kind}")
            if kind == "outcome":
                outcome = _outcome(record)
                self.outcomes[outcome.system, outcome.row] = outcome
            elif kind == "samples":
                self.num_samples = dict(record["num_samples"])
            elif kind == "run":
                earlier = dict(record["settings"])
            else:
                raise ValueError(f"unknown kind {kind}")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _foreign(path, number) from None
        if kind == "run":
            _check_same(path, earlier, settings)

    def _write(self, record: dict[str, Any]) -> None:
        self.begin()
        self._write_line(record)

    def _write_line(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()


def _check_same(path: Path, earlier: dict[str, Any], settings: dict[str, Any]) -> None:
    for key in sorted(earlier.keys() | settings.keys()):
        if earlier.get(key) != settings.get(key):
            raise UsageError(
                f'"{path}" holds a run with {key} {earlier.get(key)!r}; this one has '
                f"{settings.get(key)!r}. Choose another output folder; nothing was changed."
            )


def _foreign(path: Path, number: int) -> UsageError:
    return UsageError(
        f'"{path}" line {number} was not written by an earlier run. Choose another output folder; '
        "nothing was changed."
    )


def _outcome_dict(outcome: Outcome) -> dict[str, Any]:
    return {**dataclasses.asdict(outcome), "stop_reason": outcome.stop_reason.value}


def _outcome(record: dict[str, Any]) -> Outcome:
    values = record["log_likelihoods"]
    return Outcome(
        **{
            **record,
            "stop_reason": StopReason(record["stop_reason"]),
            "needs": tuple(record["needs"]),
            "log_likelihoods": None if values is None else tuple(values),
        }
    )
