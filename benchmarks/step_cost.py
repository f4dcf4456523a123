"""What does fusing cost beside each source's own ``generate`` and a loop that re-encodes everything?

Bad news would be a step cost that grows with the response, or more forwarded tokens than the
plain cached loop needs. Forward passes and forwarded tokens do not depend on how busy the
machine is; seconds are ratios taken in one run.

    python -m benchmarks.step_cost [--count 16]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks._results import finish, table
from benchmarks.word_problems import generate
from coolfusion.backends.huggingface import load_source
from coolfusion.builtin import builtin_paths
from coolfusion.decoder import Decoder
from coolfusion.recipe import Request
from coolfusion.sources import Source
from coolfusion.types import Generation


def own_generate(model: Any, source: Source, prompts: Sequence[Any]) -> tuple[float, int]:
    """(seconds, new tokens) of the model's own greedy ``generate``, one prompt at a time."""
    begun = time.perf_counter()
    num_tokens = 0
    for prompt in prompts:
        ids = torch.tensor([source.tokenizer.encode_prompt(prompt)])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=120,
            do_sample=False,
            eos_token_id=sorted(source.tokenizer.end_ids),
            pad_token_id=0,
        )
        num_tokens += output.shape[1] - ids.shape[1]
    return time.perf_counter() - begun, num_tokens


def reencoding_cost(source: Source, generation: Generation, prompt: Any) -> int:
    """Tokens a loop without caches would forward for the same steps.

    It runs the whole text once for every drafted token and once for every scored candidate.
    """
    prompt_length = len(source.tokenizer.encode_prompt(prompt))
    text, total = "", 0
    for step in generation.steps:
        length = prompt_length + len(source.tokenizer.encode(text))
        usage = dict(zip(step.sources, step.usage, strict=True))[source.name]
        total += sum(length + i for i in range(usage.num_drafted))
        if step.contested:
            for candidate in step.candidates:
                total += length + len(source.tokenizer.encode(candidate.text))
        text += step.segment
    return total


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Forward passes, tokens and time of fusing.")
    parser.add_argument("--count", type=int, default=16)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    paths = builtin_paths()
    prompts = [
        [{"role": "user", "content": p.question}] for p in generate(count, seed=5, split="test")
    ]
    models = {
        path.name: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in paths
    }
    alone = {}
    for path in paths:
        alone[path.name] = own_generate(models[path.name], load_source(path, path.name), prompts)
    slowest = max(seconds for seconds, _ in alone.values())
    rows = [
        [f"{name}: its own generate", f"{s / slowest:.2f}", n, "", ""]
        for name, (s, n) in alone.items()
    ]
    record: dict[str, Any] = {}
    for number in (1, 2, 3):
        sources = [load_source(path, path.name) for path in paths[:number]]
        decoder = Decoder(sources)
        begun = time.perf_counter()
        generations = [decoder.generate(prompt, Request(max_new_tokens=120)) for prompt in prompts]
        ratio = (time.perf_counter() - begun) / slowest
        usage = [generation.stats.usage for generation in generations]
        forwarded = sum(spent.num_forwarded for entry in usage for spent in entry.values())
        passes = sum(spent.num_passes for entry in usage for spent in entry.values())
        naive = sum(
            reencoding_cost(source, generation, prompt)
            for source in sources
            for generation, prompt in zip(generations, prompts, strict=True)
        )
        begun = time.perf_counter()
        Decoder([load_source(path, path.name) for path in paths[:number]]).generate_batch(
            prompts, Request(max_new_tokens=120)
        )
        batch_ratio = (time.perf_counter() - begun) / slowest
        rows.append(
            [f"fusion of {number}", f"{ratio:.2f}", forwarded, passes, f"{naive / forwarded:.0f}x"]
        )
        rows.append(
            [f"fusion of {number}, {count} prompts side by side", f"{batch_ratio:.2f}", "", "", ""]
        )
        record[str(number)] = {
            "time_ratio": ratio,
            "batch_time_ratio": batch_ratio,
            "forwarded": forwarded,
            "passes": passes,
            "naive_forwarded": naive,
        }
    heading = (
        f"{count} test problems, one core; time relative to the slowest source's own generate\n\n"
    )
    header = [
        "system",
        "time",
        "forwarded tokens",
        "forward passes",
        "a loop without caches would forward",
    ]
    finish("step_cost", {"count": count, "fusion": record}, heading + table(header, rows))


if __name__ == "__main__":
    main()
