"""What does a tokenizer's work for one more segment cost, and does it grow with the response?

Bad news would be a kind of text on which an extension at 16,000 characters costs more than one
and a half times as much as at 500. Times are processor milliseconds for four more characters, the
median of many, by tokenizer (those under COOLFUSION_REAL) and kind of text.

    python -m benchmarks.extension_cost [--count 60]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import tokenizers

from benchmarks._results import finish, table
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer

SIZES = (500, 16_000)
TEXTS = {
    "prose": "The cat sat on the mat, and Tom has 3 apples. ",
    "JSON lines": '{"id": 17, "value": [1, 2], "kind": null},\n',
    "calls": "f(x);\n",
    "tables": "| a | 17 |\n|---|---|\n",
    "Chinese": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c\u56ed\u73a9",
    "letters": "thequickbrownfoxjumpsoverthelazydog",
    "number signs": "#",
    "spaces": " ",
}


def milliseconds(tokenizer: HuggingFaceTokenizer, text: str, size: int, count: int) -> float:
    """The median processor time of an extension by four characters, after ``size`` of them."""
    whole = text * (1 + (size + 4 * count) // len(text))
    canonical, times = extend(Canonical(), whole[:size], tokenizer), []
    for start in range(size, size + 4 * count, 4):
        begun = time.process_time()
        canonical = extend(canonical, whole[start : start + 4], tokenizer)
        times.append(1000 * (time.process_time() - begun))
    return statistics.median(times)


def main() -> None:
    """Measure every tokenizer on every kind of text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    count = parser.parse_args().count
    rows, costs = [], {}
    for path in sorted((Path(os.environ["COOLFUSION_REAL"]) / "tokenizers").iterdir()):
        raw = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer = HuggingFaceTokenizer(raw, lossy_ok=True)
        costs[path.name] = {
            name: [milliseconds(tokenizer, text, size, count) for size in SIZES]
            for name, text in TEXTS.items()
        }
        pairs = costs[path.name].values()
        rows.append([path.name, *(" / ".join(f"{each:.2f}" for each in pair) for pair in pairs)])
    header = ["ms at 500 / 16,000 characters", *TEXTS]
    finish("extension_cost", {"count": count, "sizes": SIZES, "costs": costs}, table(header, rows))


if __name__ == "__main__":
    main()
