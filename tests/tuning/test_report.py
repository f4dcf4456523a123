"""What a tuning report looks like to the letter: as text, as Markdown and as data."""

from __future__ import annotations

import json
import math

from coolfusion.config.options import FusionConfig
from coolfusion.tuning import (
    Entry,
    SplitResult,
    TuningReport,
    TuningTrial,
    as_dict,
    as_markdown,
    as_text,
)


def result(*values: float | None, p_value: float | None = None) -> SplitResult:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else math.nan
    return SplitResult(values, mean, (mean - 0.125, mean + 0.125), p_value, 99.5)


CONFIG = FusionConfig(reranker="mixture", gate=0.9, weights={"a": 0.75, "b|c": 0.25})
REPORT = TuningReport(
    task="sums|more",
    metric="last_number",
    higher_is_better=True,
    search="random",
    seed=0,
    tuning_rows=("one", 2, "three"),
    held_out_rows=(4, 5, "six"),
    num_used=(3, 2),
    best_source="b|c",
    chosen="trial 2",
    entries=(
        Entry("a", None, None, result(0, 0, 1, p_value=0.5), result(1, None, 0, p_value=0.75)),
        Entry("b|c", None, None, result(1, 0, 1), result(1, None, 1)),
        Entry("untuned", FusionConfig(), None, result(1, 1, 0, p_value=1.0), None),
        Entry("trial 2", CONFIG, 2, result(1, 1, 1, p_value=0.0002), result(1, None, 0, p_value=1)),
    ),
    trials=(
        TuningTrial(1, FusionConfig(boundary="sentences"), None, 40.0),
        TuningTrial(2, CONFIG, 1.0, 99.5),
    ),
    failures=tuple(f"trial {n} has no answer to row 5: it is |x|." for n in range(12)),
)
TEXT = """sums|more: last_number; random search, 2 trials, 3 tuning rows, 3 held out

system             tuning   95 % interval  held out   95 % interval      p  tokens  setting
a                   0.333  0.208 to 0.458     0.500  0.375 to 0.625  0.750     100
b|c (best source)   0.667  0.542 to 0.792     1.000  0.875 to 1.125            100
untuned             0.667  0.542 to 0.792                            1.000     100
trial 2 (chosen)    1.000  0.875 to 1.125     0.500  0.375 to 0.625  1.000     100  reranker=mixture gate=0.9 weights=a:0.75,b|c:0.25

p: against b|c, the best source on the tuning rows. tokens: computed for one tuning row.
The tuning column is the best of 3 settings and flatters them; the held-out column does not.
On the held-out rows trial 2 is worse than b|c alone: 0.500 and 1.000, p 1.000, which may be chance.
2 of 3 held-out rows have a value for every system here.
No value: trial 0 has no answer to row 5: it is |x|; trial 1 has no answer to row 5: it is |x|; trial 2 has no answer to row 5: it is |x|; trial 3 has no answer to row 5: it is |x|; trial 4 has no answer to row 5: it is |x|; trial 5 has no answer to row 5: it is |x|; trial 6 has no answer to row 5: it is |x|; trial 7 has no answer to row 5: it is |x|; trial 8 has no answer to row 5: it is |x|; trial 9 has no answer to row 5: it is |x|; and 2 more."""
MARKDOWN = """# sums\\|more: last_number; random search, 2 trials, 3 tuning rows, 3 held out

| system | tuning | 95 % interval | held out | 95 % interval | p | tokens | setting |
| --- | --- | --- | --- | --- | --- | --- | --- |
| a | 0.333 | 0.208 to 0.458 | 0.500 | 0.375 to 0.625 | 0.750 | 100 |  |
| b\\|c (best source) | 0.667 | 0.542 to 0.792 | 1.000 | 0.875 to 1.125 |  | 100 |  |
| untuned | 0.667 | 0.542 to 0.792 |  |  | 1.000 | 100 |  |
| trial 2 (chosen) | 1.000 | 0.875 to 1.125 | 0.500 | 0.375 to 0.625 | 1.000 | 100 | reranker=mixture gate=0.9 weights=a:0.75,b\\|c:0.25 |

- p: against b\\|c, the best source on the tuning rows. tokens: computed for one tuning row.
- The tuning column is the best of 3 settings and flatters them; the held-out column does not.
- On the held-out rows trial 2 is worse than b\\|c alone: 0.500 and 1.000, p 1.000, which may be chance.
- 2 of 3 held-out rows have a value for every system here.
- No value: trial 0 has no answer to row 5: it is \\|x\\|; trial 1 has no answer to row 5: it is \\|x\\|; trial 2 has no answer to row 5: it is \\|x\\|; trial 3 has no answer to row 5: it is \\|x\\|; trial 4 has no answer to row 5: it is \\|x\\|; trial 5 has no answer to row 5: it is \\|x\\|; trial 6 has no answer to row 5: it is \\|x\\|; trial 7 has no answer to row 5: it is \\|x\\|; trial 8 has no answer to row 5: it is \\|x\\|; trial 9 has no answer to row 5: it is \\|x\\|; and 2 more.
"""


def test_as_text() -> None:
    assert as_text(REPORT) == TEXT


def test_as_markdown() -> None:
    assert as_markdown(REPORT) == MARKDOWN


def test_as_data() -> None:
    data = as_dict(REPORT)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == [
        *("task", "metric", "higher_is_better", "search", "seed", "tuning_rows", "held_out_rows"),
        *("num_used", "best_source", "chosen", "entries", "trials", "failures"),
    ]
    assert data["num_used"] == [3, 2]
    said = {"reranker": "mixture", "gate": 0.9, "weights": {"a": 0.75, "b|c": 0.25}}
    assert data["entries"][3] == {
        "name": "trial 2",
        "config": said,
        "trial": 2,
        "tuning": {
            "values": [1, 1, 1],
            "mean": 1.0,
            "interval": [0.875, 1.125],
            "p_value": 0.0002,
            "num_forwarded": 99.5,
        },
        "held_out": {
            "values": [1, None, 0],
            "mean": 0.5,
            "interval": [0.375, 0.625],
            "p_value": 1,
            "num_forwarded": 99.5,
        },
    }
    assert [each["config"] for each in data["entries"][:3]] == [None, None, {}]
    assert data["trials"] == [
        {"number": 1, "config": {"boundary": "sentences"}, "score": None, "num_forwarded": 40.0},
        {"number": 2, "config": said, "score": 1.0, "num_forwarded": 99.5},
    ]
