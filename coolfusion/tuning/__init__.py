"""Tuning: weights, reranker, boundary and gate of a fusion from a few rows with references.

    from coolfusion.tuning import tune
    report = tune(fusion.sources, read_task("task.jsonl"), TuningPlan("last_number", "swarm"))
    write_fusion_file("fusion.toml", report.best)

``coolfusion tune`` is the same from the command line.
"""

from coolfusion.tuning.objectives import Answers, Contender, Measured, Objective
from coolfusion.tuning.plan import TuningPlan
from coolfusion.tuning.proposals import SEARCHES, Proposals, propose
from coolfusion.tuning.references import References
from coolfusion.tuning.report import (
    Entry,
    SplitResult,
    TuningReport,
    TuningTrial,
    as_dict,
    as_markdown,
    as_text,
    verdicts,
)
from coolfusion.tuning.run import TuningProgress
from coolfusion.tuning.space import KNOBS, Space, label, make_space
from coolfusion.tuning.splits import Split, split_rows
from coolfusion.tuning.tune import tune

__all__ = [
    "KNOBS",
    "SEARCHES",
    "Answers",
    "Contender",
    "Entry",
    "Measured",
    "Objective",
    "Proposals",
    "References",
    "Space",
    "Split",
    "SplitResult",
    "TuningPlan",
    "TuningProgress",
    "TuningReport",
    "TuningTrial",
    "as_dict",
    "as_markdown",
    "as_text",
    "label",
    "make_space",
    "propose",
    "split_rows",
    "tune",
    "verdicts",
]
