"""What a report looks like to the letter: as text, as Markdown and as data."""

from __future__ import annotations

import json
import math

from coolfusion.evaluation import Report, SystemResult, as_dict, as_markdown, as_text


def system(name: str, mean: float, p_value: float | None, **other: object) -> SystemResult:
    settings = {
        "fixed": (),
        "broken": (),
        "wins": {},
        "num_steps": 0,
        "num_contested": 0,
        **other,
    }
    return SystemResult(
        name,
        (1.0, None, mean),
        mean,
        (mean - 0.25, mean + 0.25),
        p_value,
        num_forwarded=120.6,
        seconds=0.0625,
        **settings,  # type: ignore[arg-type]
    )


REPORT = Report(
    task="sums|more",
    metric="last_number",
    higher_is_better=False,
    rows=("one", 2, "three\nlines"),
    num_used=2,
    best_source="a",
    results=(
        system("a", 0.5, None),
        system("b|c", 0.25, 0.0004, broken=(2,)),
        system("majority", math.nan, 0.5, wins={"a": 2, "b|c": 0}),
        system(
            *("fusion", math.inf, 0.04567),
            fixed=("one", 2),
            broken=tuple(range(12)),
            wins={"a": 3, "b|c": 1},
            num_steps=9,
            num_contested=4,
        ),
    ),
    failures=tuple(f"fusion has no answer to row {n}: it is |x|." for n in range(11)),
)
TEXT = """sums|more: last_number, lower is better, 2 of 3 rows

system           score   95 % interval        p  fixed  broken  tokens  seconds
a (best source)  0.500  0.250 to 0.750                             121    0.062
b|c              0.250  0.000 to 0.500  < 0.001      0       1     121    0.062
majority           nan      nan to nan    0.500      0       0     121    0.062
fusion             inf      inf to inf    0.046      2      12     121    0.062

p, fixed and broken: against a, the best source. tokens, seconds: computed for one row.
majority: answers by a 2, b|c 0.
fusion: 4 of 9 steps contested; won by a 3, b|c 1.
fusion fixed: 'one', 2.
fusion broke: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more.
No value: fusion has no answer to row 0: it is |x|; fusion has no answer to row 1: it is |x|; fusion has no answer to row 2: it is |x|; fusion has no answer to row 3: it is |x|; fusion has no answer to row 4: it is |x|; fusion has no answer to row 5: it is |x|; fusion has no answer to row 6: it is |x|; fusion has no answer to row 7: it is |x|; fusion has no answer to row 8: it is |x|; fusion has no answer to row 9: it is |x|; and 1 more."""
MARKDOWN = """# sums\\|more: last_number, lower is better, 2 of 3 rows

| system | score | 95 % interval | p | fixed | broken | tokens | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- |
| a (best source) | 0.500 | 0.250 to 0.750 |  |  |  | 121 | 0.062 |
| b\\|c | 0.250 | 0.000 to 0.500 | < 0.001 | 0 | 1 | 121 | 0.062 |
| majority | nan | nan to nan | 0.500 | 0 | 0 | 121 | 0.062 |
| fusion | inf | inf to inf | 0.046 | 2 | 12 | 121 | 0.062 |

- p, fixed and broken: against a, the best source. tokens, seconds: computed for one row.
- majority: answers by a 2, b\\|c 0.
- fusion: 4 of 9 steps contested; won by a 3, b\\|c 1.
- fusion fixed: 'one', 2.
- fusion broke: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more.
- No value: fusion has no answer to row 0: it is \\|x\\|; fusion has no answer to row 1: it is \\|x\\|; fusion has no answer to row 2: it is \\|x\\|; fusion has no answer to row 3: it is \\|x\\|; fusion has no answer to row 4: it is \\|x\\|; fusion has no answer to row 5: it is \\|x\\|; fusion has no answer to row 6: it is \\|x\\|; fusion has no answer to row 7: it is \\|x\\|; fusion has no answer to row 8: it is \\|x\\|; fusion has no answer to row 9: it is \\|x\\|; and 1 more.
"""


def test_as_text() -> None:
    assert as_text(REPORT) == TEXT


def test_as_markdown() -> None:
    assert as_markdown(REPORT) == MARKDOWN


def test_as_data() -> None:
    data = as_dict(REPORT)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == [
        *("task", "metric", "higher_is_better", "rows", "num_used", "best_source", "results"),
        "failures",
    ]
    assert data["rows"] == ["one", 2, "three\nlines"]
    assert data["results"][1] == {
        "name": "b|c",
        "values": [1.0, None, 0.25],
        "mean": 0.25,
        "interval": [0.0, 0.5],
        "p_value": 0.0004,
        "fixed": [],
        "broken": [2],
        "num_forwarded": 120.6,
        "seconds": 0.0625,
        "wins": {},
        "num_steps": 0,
        "num_contested": 0,
    }
    assert [each["mean"] for each in data["results"]] == [0.5, 0.25, None, "inf"]
