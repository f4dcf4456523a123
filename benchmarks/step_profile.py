"""Where does a step spend its time, and does what lies outside the models grow with the response?

Bad news would be more than 15 % of the time in Python and the tokenizers, or a step that is
dearer late in a long response. What any decoder does with tensors besides the model's pass,
masks and inputs before it and logits after it, is shown apart. One thread; the clock of a
part stops while a part inside it runs.

    python -m benchmarks.step_profile [--count 24]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import transformers

from benchmarks._results import finish, table
from benchmarks.word_problems import generate
from coolfusion.backends.huggingface import TransformersBackend, load_source, packed
from coolfusion.backends.source import Source
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import Scheduler
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.speculation import Speculation

TENSORS = ("models", "tensors in and out")
PYTHON = ("cache planning", "memory of answers", "tokenizers", "loop")
PARTS = (*TENSORS, *PYTHON)
BEGINNING, END = (100, 300), (1900, 2100)  # tokens of the long response that are compared


class Clocks:
    """Seconds of each part, those of the parts inside it left out."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[str] = []
        self._since = 0.0

    def of(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with its time counted for ``part``."""

        def counted(*args: Any, **options: Any) -> Any:
            self._switch()
            self._running.append(part)
            try:
                return call(*args, **options)
            finally:
                self._switch()
                self._running.pop()

        return counted

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def clocked(sources: list[Source]) -> Iterator[Clocks]:
    """Clocks on all parts of decoding with ``sources``."""
    clocks = Clocks()
    timed = [
        (Scheduler, "start", "loop"),
        (Scheduler, "next_finished", "loop"),
        (AnswerCache, "answer", "memory of answers"),
        (packed.PackedPasses, "answer", "cache planning"),
        (packed.PackedPasses, "_forward", "tensors in and out"),
    ]
    timed += [(source.tokenizer, "encode", "tokenizers") for source in sources]
    patches = [
        mock.patch.object(o, name, clocks.of(part, getattr(o, name))) for o, name, part in timed
    ]
    for source in sources:
        passes: Any = source.backend
        passes = passes._passes
        patches.append(mock.patch.object(passes, "_model", _Clocked(passes._model, clocks)))
    for patch in patches:
        patch.start()
    try:
        yield clocks
    finally:
        for patch in patches:
            patch.stop()


class _Clocked:
    """A model whose calls are counted."""

    def __init__(self, model: Any, clocks: Clocks) -> None:
        self._call = clocks.of("models", model)

    def __call__(self, **inputs: Any) -> Any:
        return self._call(**inputs)


def shares(num_sources: int, speculation: Speculation | None, count: int) -> dict[str, Any]:
    """Each part's share of the time of ``count`` responses of the built-in models, one by one."""
    sources = [load_source(path, path.name) for path in builtin_paths()[:num_sources]]
    decoder = SegmentDecoder(sources, speculation=speculation)
    chats = [
        [{"role": "user", "content": p.question}] for p in generate(count, seed=5, split="test")
    ]
    decoder.generate(chats[0], Request(max_new_tokens=120))
    num_steps = 0
    with clocked(sources) as clocks:
        for chat in chats[1:]:
            num_steps += len(decoder.generate(chat, Request(max_new_tokens=120)).steps)
    total = sum(clocks.seconds.values())
    return {
        "parts": {part: seconds / total for part, seconds in clocks.seconds.items()},
        "python": sum(clocks.seconds[part] for part in PYTHON) / total,
        "milliseconds": 1000 * total / num_steps,
    }


def growth(speculation: Speculation | None) -> dict[str, float]:
    """Milliseconds per token outside the models, early and late in a response of 2,100 tokens.

    The models are small and untrained, so that they neither stop nor agree on purpose.
    """
    config = transformers.LlamaConfig(
        vocab_size=640,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
    )
    sources = []
    for number, path in enumerate(builtin_paths()[:2]):
        torch.manual_seed(number)
        model = transformers.LlamaForCausalLM(config).eval()
        plain = load_source(path, path.name)
        model.lm_head = _plain_text_only(plain, config)
        sources.append(replace(plain, backend=TransformersBackend(model)))
    decoder = SegmentDecoder(sources, speculation=speculation)
    request = Request(max_new_tokens=END[1], max_segment_tokens=8)
    state = decoder.start("A long story about many things:", request)
    marks: dict[int, tuple[int, float]] = {}
    with clocked(sources) as clocks:
        while state.stop_reason is None:
            num_tokens = max(len(encoded.ids) for encoded in state.encoded)
            for mark in (*BEGINNING, *END):
                if num_tokens >= mark and mark not in marks:
                    marks[mark] = (
                        state.num_steps,
                        sum(clocks.seconds.values()) - clocks.seconds["models"],
                    )
            state, _ = decoder.step(state)
    marks.setdefault(
        END[1], (state.num_steps, sum(clocks.seconds.values()) - clocks.seconds["models"])
    )
    per_step = {}
    for name, (first, last) in (("early", BEGINNING), ("late", END)):
        steps = marks[last][0] - marks[first][0]
        per_step[name] = 1000 * (marks[last][1] - marks[first][1]) / max(1, steps)
    return {**per_step, "ratio": per_step["late"] / per_step["early"]}


def _plain_text_only(source: Source, config: transformers.LlamaConfig) -> torch.nn.Linear:
    """An output layer that only ever chooses tokens of plain text, and hence never the end."""
    head = torch.nn.Linear(config.hidden_size, config.vocab_size)
    with torch.no_grad():
        for token in range(config.vocab_size):
            piece = source.tokenizer.piece(token)
            if not piece or not piece.isascii():
                head.bias[token] = -1e4
    return head


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Where a step spends its time.")
    parser.add_argument("--count", type=int, default=24)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    ways = {"on": Speculation(), "off": None}
    profiles = {
        f"{number} sources, speculation {name}": shares(number, way, count)
        for number in (1, 2, 3)
        for name, way in ways.items()
    }
    grown = {name: growth(way) for name, way in ways.items()}
    rows = [
        [
            name,
            *(f"{p['parts'][part]:.1%}" for part in PARTS),
            f"{p['python']:.1%}",
            f"{p['milliseconds']:.1f}",
        ]
        for name, p in profiles.items()
    ]
    header = ["built-in models", *PARTS, "Python and tokenizers", "ms per step"]
    lines = [
        f"Shares of the time of {count - 1} responses, one by one, one thread.",
        "",
        table(header, rows),
        "",
        f"Milliseconds of a step outside the models, after {BEGINNING[0]} and {END[0]} response tokens:",
        "",
        table(
            ["speculation", f"at {BEGINNING[0]}", f"at {END[0]}", "ratio"],
            [
                [n, f"{g['early']:.2f}", f"{g['late']:.2f}", f"{g['ratio']:.2f}"]
                for n, g in grown.items()
            ],
        ),
    ]
    finish("step_profile", {"profiles": profiles, "growth": grown}, "\n".join(lines))


if __name__ == "__main__":
    main()
