"""Whatever happens to long work: nothing finished is lost, doubled or torn, and it can go on.

A chain of faults is done to one output of each command, at moments of chance. After each of them
what was finished is there. A run without a fault then ends as one that was never disturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from coolfusion import FusionModel
from coolfusion.cli import main
from coolfusion.jsonlog import JsonLog
from coolfusion.testing import toy_source
from coolfusion.trace import TraceWriter, read_trace, step_to_dict
from tests.checkpoints import write_llama
from tests.faults import (
    SIGNALS,
    WITNESS,
    Ended,
    Fault,
    FullDisk,
    Moment,
    Replaced,
    SecondProcess,
    Signalled,
    count_events,
    in_a_copy,
    run_with,
)
from tests.loaded_fusion import loading
from tests.test_data_loss import ROWS as FOUR_ROWS
from tests.test_data_loss import TEXTS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="copies this process")

ROWS = [*FOUR_ROWS, {"id": "\u00e4\u0301 \U0001f44d", "prompt": "She eats 2", "reference": "2"}]
OTHER_ROWS = [{**row, "prompt": "Tom eats"} for row in ROWS]
FUSING = "-m a -m b --raw --max-new-tokens 8"
# How long it took, and what was computed: that depends on what is cached.
COSTS = {"seconds", "tokens_forwarded", "forward_passes", "num_forwarded", "usage", "num_new"}


def without_costs(value: Any) -> Any:
    """JSON data as it must be, whatever was done before."""
    if isinstance(value, dict):
        return {key: without_costs(item) for key, item in value.items() if key not in COSTS}
    if isinstance(value, list):
        return [without_costs(item) for item in value]
    return value


def records(log: Path) -> list[Any]:
    """The finished pieces of work in a log; a line without its end is none."""
    if not log.exists():
        return []
    lines = log.read_bytes().split(b"\n")[:-1]
    found = [json.loads(line) for line in lines]
    return [record for record in found if record.get("kind") != "run"]


@dataclass(frozen=True)
class Job:
    """A command, what it has finished so far, and what it has made in the end.

    ``finished`` gives JSON data in the order of the work. ``rows``: the command reads rows, so
    that they can be changed under it. ``at_once``: the output is there as a whole or not at all.
    ``replaces``: a run does not go on with what an earlier one has left.
    """

    arguments: str
    output: str
    finished: Callable[[], list[Any]]
    made: Callable[[], Any]
    rows: bool = False
    at_once: bool = False
    replaces: bool = False
    rival: str = ""  # a command with another result in the same place; none: the same once more

    @property
    def words(self) -> tuple[str, ...]:
        """The command line."""
        return tuple(self.arguments.split())


def of_log(log: str, *others: str) -> tuple[Callable[[], list[Any]], Callable[[], Any]]:
    """What a command with a log has finished and made; ``others`` are files beside it."""

    def made() -> Any:
        lines = Counter(json.dumps(without_costs(each)) for each in records(Path(log)))
        beside = {}
        for name in others:
            path = Path(log).parent / name
            is_json = path.suffix == ".json"
            beside[name] = (
                without_costs(json.loads(path.read_text())) if is_json else contents(path)
            )
        return lines, beside

    return lambda: records(Path(log)), made


def contents(path: Path) -> Any:
    """A hash of a file, or of each file in a folder."""
    if path.is_dir():
        return {each.name: contents(each) for each in path.iterdir()}
    return sha256(path.read_bytes()).hexdigest()


def traced() -> list[Any]:
    path = Path("steps.jsonl")
    found = read_trace(path) if path.exists() else []
    return [without_costs(step_to_dict(step)) for each in found for step in each.steps]


TASK = f"{FUSING} --task rows.jsonl"
JOBS = {
    "generate": Job(
        f"generate {FUSING} --batch-size 1 --input rows.jsonl --output out.jsonl",
        "out.jsonl",
        *of_log("out.jsonl"),
        rows=True,
    ),
    "eval": Job(
        f"eval {TASK} --samples 1 --output out",
        "out",
        *of_log("out/answers.jsonl", "report.json"),
        rows=True,
    ),
    "tune": Job(
        f"tune {TASK} --trials 2 --output out",
        "out",
        *of_log("out/trials.jsonl", "report.json", "fusion.toml"),
        rows=True,
    ),
    "swarm": Job(
        "swarm -m a -m b --particles 2 --iterations 1 -q --output out --utility tests.test_data_loss:norm",
        "out",
        *of_log("out/evaluations.jsonl", "best"),
    ),
    "merge": Job(
        "merge --method linear -m a -m b --output out",
        "out",
        lambda: [],
        lambda: contents(Path("out")),
        at_once=True,
    ),
    "trace": Job(
        f"generate {FUSING} --trace steps.jsonl Ann",
        "steps.jsonl",
        traced,
        traced,
        replaces=True,
        rival=f"generate {FUSING} --trace steps.jsonl Tom",
    ),
}


def prepare() -> None:
    """In a copy: tell of each piece of work when the command has been told that it is finished."""
    witness = os.open(WITNESS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    append, step = JsonLog.append, TraceWriter.step

    def appended(self: JsonLog, record: Any) -> None:
        append(self, record)
        os.write(witness, b".")

    def stepped(self: TraceWriter, record: Any) -> None:
        step(self, record)
        os.write(witness, b".")

    JsonLog.append, TraceWriter.step = appended, stepped  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows and experts, where two toys are the fusion."""
    fusion = FusionModel([toy_source("a", TEXTS), toy_source("b", TEXTS[::-1], family="unigram")])
    monkeypatch.setattr("coolfusion.cli.options.load_fusion", loading(fusion))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        write_llama(Path(name), seed)
    Path("rows.jsonl").write_text(text_of(ROWS))
    return tmp_path


def text_of(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def remove(output: str) -> None:
    path = Path(output)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def undisturbed(job: Job, arguments: str = "") -> None:
    """Run the command, or its rival's ``arguments``, in a copy of this process."""
    ended = in_a_copy(partial(main, (arguments or job.arguments).split()))
    assert ended.code == 0, ended.said


def made_of(job: Job, rows: list[Any], arguments: str = "") -> Any:
    """What the command makes of rows if nothing happens; nothing of it stays."""
    Path("rows.jsonl").write_text(text_of(rows))
    undisturbed(job, arguments)
    made = job.made()
    remove(job.output)
    return made


def faults(job: Job, rng: Random, num_events: tuple[int, int], most_bytes: int) -> list[Fault]:
    """Faults of each kind at moments of chance, in an order of chance."""

    def moment() -> Moment:
        of_files = rng.random() < 0.5
        return Moment(rng.randrange(1, num_events[of_files]), of_files)

    found: list[Fault] = [
        Signalled(signal.SIGKILL, moment()),
        *(Signalled(number, moment()) for number in rng.sample(sorted(SIGNALS), 2)),
        FullDisk(rng.randrange(most_bytes)),
        SecondProcess(moment(), tuple(job.rival.split()) or job.words),
    ]
    if job.rows:
        found.append(Replaced(moment(), Path("rows.jsonl"), text_of(OTHER_ROWS)))
    rng.shuffle(found)
    return found


def check_after(
    fault: Fault, job: Job, ended: Ended, kept: list[Any], wholes: list[Any]
) -> list[Any]:
    """Check what a fault has left, and return what is finished now; ``kept`` was before it.

    ``wholes`` is what the command makes, and what others make in its place.
    """
    assert "Traceback" not in ended.said, (fault, ended.said)
    if isinstance(fault, Signalled) and fault.signal in SIGNALS:
        assert ended.code in (0, SIGNALS[fault.signal]), (fault, ended)
    finished = job.finished()
    num_told = Path(WITNESS).stat().st_size if Path(WITNESS).exists() else 0
    if job.replaces:
        kept = []
        assert any(finished == whole[: len(finished)] for whole in wholes), fault
    if ended.code:
        assert finished[: len(kept)] == kept, fault
        assert len(finished) >= len(kept) + num_told, fault
    lines = [json.dumps(without_costs(each)) for each in finished]
    assert len(set(lines)) == len(lines), fault
    return finished


def check_chain(job: Job, seed: int) -> int:
    """Do one fault of each kind to an output; returns how many there were."""
    assert main(list(job.words)) == 0  # what it imports is here then, and no moment is in it
    remove(job.output)
    allowed = [made_of(job, OTHER_ROWS)] if job.rows else []
    if job.rival:
        allowed.append(made_of(job, ROWS, job.rival))
    whole = made_of(job, ROWS)
    undisturbed(job)
    most_bytes = max(p.stat().st_size for p in [Path(job.output), *Path(job.output).rglob("*")])
    remove(job.output)
    num_events = count_events(lambda: main(list(job.words)))
    remove(job.output)
    kept: list[Any] = []
    chain = faults(job, Random(f"{job.output} {seed}"), num_events, most_bytes)
    for fault in chain:
        Path(WITNESS).unlink(missing_ok=True)
        ended = run_with(fault, job.words, prepare)
        Path("rows.jsonl").write_text(text_of(ROWS))
        kept = check_after(fault, job, ended, kept, [whole, *allowed])
        if ended.code == 0 or (job.at_once and Path(job.output).exists()):  # it came through
            by_others = isinstance(fault, (Replaced, SecondProcess)) and job.made() in allowed
            same = job.made() == whole or by_others
            assert same, fault
            remove(job.output)
            kept = []
    undisturbed(job)
    assert (job.made() == whole) is True
    return len(chain)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_chain_of_faults(job: Job) -> None:
    assert check_chain(job, 0) >= 5


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 8))
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_many_chains_of_faults(job: Job, seed: int) -> None:
    assert check_chain(job, seed) >= 5
