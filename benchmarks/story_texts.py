"""Is fused prose better prose, in the eyes of its sources and of a model that took no part?

Bad news would be a fused text that the outsider finds less likely than the best source's own, or
one that wins by repeating itself. Needs the folder of models and story openings that
``COOLFUSION_REAL`` names.

    python -m benchmarks.story_texts [--count 100]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks._results import finish, table
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.decoding.answers.rerank import rerank_answers
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.recipe import Recipe, make_recipe
from coolfusion.errors import SourceError
from coolfusion.evaluation.likelihood import log_likelihoods
from coolfusion.evaluation.statistics import bootstrap_interval

FUSED = ("stories260K", "babyllama-361")
OUTSIDER = "llama2xs-260K"
REQUEST = Request(max_new_tokens=120)
JUDGED = 150  # characters of each text that are judged: the shortest context window holds them
RECIPES = {
    "fusion, default": {},
    "fusion, paper preset": {"preset": "paper"},
    "fusion, bits_per_byte": {"reranker": "bits_per_byte"},
    "fusion, sentences": {"boundary": "sentences"},
}


def repeated(text: str) -> float:
    """Share of a text's word trigrams that it has said before."""
    words = text.split()
    grams = Counter(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(grams) / max(1, sum(grams.values()))


def bits_per_char(judge: Source, openings: Sequence[str], texts: Sequence[str]) -> list[float]:
    """How surprising the judge finds each text's beginning; NaN for what it cannot read."""
    beginnings = [
        text[: text.rfind(" ", 0, JUDGED) if len(text) > JUDGED else None] for text in texts
    ]
    prompts = [judge.tokenizer.encode_prompt(opening) for opening in openings]
    found = log_likelihoods(judge, prompts, [[text] for text in beginnings])
    return [
        math.nan
        if isinstance(scores, SourceError)
        else -scores.log_likelihoods[0] / math.log(2) / max(1, len(text))
        for scores, text in zip(found, beginnings, strict=True)
    ]


def texts_of(sources: Sequence[Source], openings: Sequence[str]) -> dict[str, list[str]]:
    """What every system writes after the openings."""
    alone = {source.name: [source] for source in sources}
    found = {
        name: [g.text for g in SegmentDecoder(some, Recipe()).generate_batch(openings, REQUEST)]
        for name, some in alone.items()
    }
    for name, options in RECIPES.items():
        decoder = SegmentDecoder(sources, make_recipe(**options))
        found[name] = [g.text for g in decoder.generate_batch(openings, REQUEST)]
    rankings = rerank_answers(SegmentDecoder(sources), openings, REQUEST)
    found["rerank"] = [ranking.text for ranking in rankings]
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Fused stories and their judges.")
    parser.add_argument("--count", type=int, default=100)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    root = Path(os.environ["COOLFUSION_REAL"])
    lines = (root / "data" / "tinystories" / "prompts.jsonl").read_text("utf-8").splitlines()
    openings = [json.loads(line)["prompt"] for line in lines[:count]]
    sources = [load_source(root / "models" / name, name) for name in FUSED]
    outsider = load_source(root / "models" / OUTSIDER, OUTSIDER)
    texts = texts_of(sources, openings)
    texts["a person's"] = [json.loads(line)["continuation"] for line in lines[:count]]
    rows, record = [], {}
    for name, written in texts.items():
        judged = {
            judge.name: np.array(bits_per_char(judge, openings, written))
            for judge in (*sources, outsider)
        }
        readable = {n: values[np.isfinite(values)].tolist() for n, values in judged.items()}
        low, high = bootstrap_interval(readable[OUTSIDER])
        means = {n: sum(values) / len(values) for n, values in readable.items()}
        again = sum(map(repeated, written)) / len(written)
        length = sum(map(len, written)) / len(written)
        rows.append(
            [
                name,
                *(f"{means[source.name]:.3f}" for source in sources),
                f"{means[OUTSIDER]:.3f} ({low:.3f}-{high:.3f})",
                f"{again:.1%}",
                f"{length:.0f}",
            ]
        )
        record[name] = {"bits_per_char": means, "repeated": again, "length": length}
    header = ["text", *(f"bits per character by {name}" for name in FUSED)]
    header += [
        f"by {OUTSIDER}, which took no part (95 % interval)",
        "repeated trigrams",
        "characters",
    ]
    heading = f"{len(openings)} story openings, greedy, at most {REQUEST.max_new_tokens} tokens; judged on the "
    heading += f"first {JUDGED} characters\n\n"
    finish(
        "story_texts", {"count": len(openings), "systems": record}, heading + table(header, rows)
    )


if __name__ == "__main__":
    main()
