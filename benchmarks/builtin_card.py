"""What is each built-in source good and bad at, on problems it was not trained on?

Bad news would be a source without a skill of its own, one that fails to state an answer, or one
that is as sure of its wrong answers as of its right ones. Greedy, by transformers' own `generate`,
so that nothing here depends on the fusion code.

    python -m benchmarks.builtin_card [--count 200]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks._results import finish, table, with_interval
from benchmarks.stories import SKILLS
from benchmarks.word_problems import Problem, extract_answer, generate
from coolfusion.builtin import builtin_paths

SEED = 5
BATCH = 100
MAX_NEW_TOKENS = 120
DIGITS = frozenset("0123456789")
RAW = "Question: {}\nAnswer:"


@dataclass(frozen=True, slots=True)
class Reply:
    """A source's answer to a problem, and the probability of its least certain digit."""

    problem: Problem
    text: str
    least: float

    @property
    def right(self) -> bool:
        """Whether the answer stated is the true one."""
        return extract_answer(self.text) == self.problem.answer


@dataclass(frozen=True, slots=True)
class Source:
    """A built-in source as transformers loads it."""

    name: str
    tokenizer: Any
    model: Any

    def prompt_ids(self, problem: Problem, *, chat: bool) -> list[int]:
        """The ids that ask the problem, in the source's chat format or in the raw one."""
        if not chat:
            return list(self.tokenizer.encode(RAW.format(problem.question)))
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}],
            tokenize=False,
            add_generation_prompt=True,
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def load(folder: Path) -> Source:
    """The source in `folder`, in single precision."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Source(folder.name, transformers.AutoTokenizer.from_pretrained(folder), model.eval())


@torch.inference_mode()
def replies(source: Source, problems: Sequence[Problem], *, chat: bool) -> list[Reply]:
    """The greedy answers of `source`, in the order of `problems`."""
    found: list[Reply] = []
    pad, digits = source.tokenizer.eos_token_id, torch.tensor(_digit_ids(source))
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        prompts = [source.prompt_ids(problem, chat=chat) for problem in batch]
        width = max(map(len, prompts))
        missing = [width - len(prompt) for prompt in prompts]
        output = source.model.generate(
            torch.tensor([[pad] * n + ids for n, ids in zip(missing, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in missing]),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=pad,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = output.sequences[:, width:]
        sure = torch.stack(output.logits, dim=1).softmax(-1).max(-1).values
        ends = _lengths(source, ids)
        for row, problem in enumerate(batch):
            text = source.tokenizer.decode(
                [*prompts[row], *ids[row, : ends[row]].tolist()], skip_special_tokens=True
            )
            asked = source.tokenizer.decode(prompts[row], skip_special_tokens=True)
            least = min(sure[row][torch.isin(ids[row], digits)].tolist(), default=0.0)
            found.append(Reply(problem, text[len(asked) :].strip(" "), least))
    return found


def _digit_ids(source: Source) -> list[int]:
    """The tokens that are one digit each: phrasing is free, so only these can be wrong."""
    return [id_ for token, id_ in source.tokenizer.get_vocab().items() if token in DIGITS]


def _lengths(source: Source, ids: torch.Tensor) -> list[int]:
    """How many tokens of each row come before its first end token."""
    eos = source.model.generation_config.eos_token_id
    ended = torch.isin(ids, torch.tensor(eos if isinstance(eos, list) else [eos]))
    return [int(row.int().argmax()) if row.any() else len(row) for row in ended]


def accuracy_rows(chat: Sequence[Reply], raw: Sequence[Reply]) -> list[str]:
    """Right answers per skill, over all skills, and over all skills in the raw format."""
    cells = []
    for skill in SKILLS:
        hits = [reply.right for reply in chat if reply.problem.skill == skill]
        cells.append(with_interval(sum(hits), len(hits)))
    for some in (chat, raw):
        cells.append(with_interval(sum(reply.right for reply in some), len(some)))
    return cells


def manner_rows(chat: Sequence[Reply]) -> list[str]:
    """How often an answer is stated, and how sure the source is where right and where wrong."""
    stated = sum(extract_answer(reply.text) is not None for reply in chat)
    cells = [with_interval(stated, len(chat))]
    for right in (True, False):
        sure = [reply.least for reply in chat if reply.right is right]
        cells.append(f"{sum(sure) / len(sure):.2f}" if sure else "none")
    return cells


def examples(answers: dict[str, list[Reply]], per_skill: int = 1) -> str:
    """The first problems of every skill with every source's answer, as they came."""
    blocks = []
    for skill in SKILLS:
        first = next(iter(answers.values()))
        chosen = [i for i, reply in enumerate(first) if reply.problem.skill == skill][:per_skill]
        for index in chosen:
            lines = [f"{skill}: {first[index].problem.question}", ""]
            for name, found in answers.items():
                mark = "right" if found[index].right else "wrong"
                lines.append(f"- {name} ({mark}): {found[index].text}")
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main() -> None:
    """Measure every built-in source and print its card."""
    parser = argparse.ArgumentParser(description="Measure the built-in sources one by one.")
    parser.add_argument("--count", type=int, default=200, help="problems per skill")
    count = parser.parse_args().count
    torch.set_num_threads(1)
    problems = [
        p for skill in SKILLS for p in generate(count, seed=SEED, skills=[skill], split="test")
    ]
    chat: dict[str, list[Reply]] = {}
    accuracy, manner, record = [], [], {}
    for folder in builtin_paths():
        source = load(folder)
        chat[source.name] = replies(source, problems, chat=True)
        raw = replies(source, problems, chat=False)
        accuracy.append([source.name, *accuracy_rows(chat[source.name], raw)])
        manner.append([source.name, *manner_rows(chat[source.name])])
        record[source.name] = {
            skill: sum(r.right for r in chat[source.name] if r.problem.skill == skill) / count
            for skill in SKILLS
        }
    tables = "\n\n".join(
        [
            table(["source", *SKILLS, "all", "all, raw prompt"], accuracy),
            table(["source", "states an answer", "sure when right", "sure when wrong"], manner),
            examples(chat),
        ]
    )
    finish("builtin_card", {"problems_per_skill": count, "accuracy": record}, tables)


if __name__ == "__main__":
    main()
