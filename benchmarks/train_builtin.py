"""Train a source of the built-in kind from scratch: its tokenizer, then its model.

    python -m benchmarks.train_builtin sums --output coolfusion/builtin/sums

Everything is drawn from the recipe's seed, so the same command on the same kind of machine
gives the same weights. The loss counts a question's tokens a little and a solution's in full.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers

from benchmarks.builtin_tokenizers import Build, byte_level_bpe, sentencepiece_bpe, unigram
from benchmarks.word_problems import Problem, generate
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer

QUESTION_WEIGHT = 0.1
RAW_SHARE = 0.4  # of the examples are in the raw format, the others in the source's chat format
RAW = "Question: {question}\nAnswer:"


@dataclass(frozen=True, slots=True)
class SourceRecipe:
    """All that makes a built-in source what it is."""

    name: str
    architecture: str
    shape: dict[str, Any]
    build: Build
    vocab_size: int
    specials: tuple[str, ...]
    begin: str
    before: str
    after: str
    end: str
    skills: dict[str, float]
    seed: int
    steps: int = 1400
    batch_size: int = 48
    peak_rate: float = 3e-3

    def chat(self, question: str) -> str:
        """The text of a chat with one question, up to where the answer starts."""
        return self.begin + self.before + question + self.after

    @property
    def template(self) -> str:
        """The same, for any chat, in the language of chat templates."""
        return (
            f"{json.dumps(self.begin).join(['{{ ', ' }}'])}"
            "{% for message in messages %}"
            "{% if message['role'] == 'system' %}{{ message['content'] + '\\n' }}"
            "{% elif message['role'] == 'user' %}"
            f"{{{{ {json.dumps(self.before)} + message['content'] + {json.dumps(self.after)} }}}}"
            f"{{% else %}}{{{{ message['content'] + {json.dumps(self.end)} + '\\n' }}}}{{% endif %}}"
            "{% endfor %}"
        )


_LLAMA_LIKE = {
    "hidden_size": 112,
    "intermediate_size": 304,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
_GPT2 = {
    "n_embd": 112,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        SourceRecipe(
            "sums",
            "qwen2",
            _LLAMA_LIKE,
            byte_level_bpe,
            640,
            ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
            "",
            "<|user|>\n",
            "<|end|>\n<|assistant|>\n",
            "<|end|>",
            {"change": 0.485, "compare": 0.485, "groups": 0.015, "money": 0.015},
            11,
        ),
        SourceRecipe(
            "groups",
            "llama",
            _LLAMA_LIKE,
            sentencepiece_bpe,
            560,
            ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
            "<s>",
            "[INST] ",
            " [/INST]\n",
            "</s>",
            {"groups": 0.70, "compare": 0.27, "change": 0.015, "money": 0.015},
            22,
        ),
        SourceRecipe(
            "money",
            "gpt2",
            _GPT2,
            unigram,
            600,
            ("<unk>", "<eos>"),
            "",
            "Question: ",
            "\nAnswer:\n",
            "<eos>",
            {"money": 0.70, "change": 0.27, "groups": 0.015, "compare": 0.015},
            33,
        ),
    )
}


# Not shipped: a source that is weak at everything, and one with the tokenizer of another.
RECIPES["beginner"] = replace(
    RECIPES["groups"],
    name="beginner",
    skills=dict.fromkeys(("change", "compare", "groups", "money"), 0.25),
    seed=44,
    steps=250,
)
RECIPES["coins"] = replace(
    RECIPES["sums"],
    name="coins",
    skills={"money": 0.60, "groups": 0.37, "change": 0.015, "compare": 0.015},
    steps=800,
)


def make_tokenizer(recipe: SourceRecipe) -> transformers.PreTrainedTokenizerFast:
    """The recipe's tokenizer, trained on problems of its own seed, with its chat template."""
    problems = generate(6000, seed=recipe.seed)
    texts = [f"{RAW.format(question=p.question)} {p.solution}" for p in problems]
    backend = recipe.build(texts, recipe.vocab_size, recipe.specials)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=recipe.specials[0] if recipe.specials[0].endswith("text|>") else recipe.end,
        bos_token=recipe.begin or None,
        unk_token="<unk>" if "<unk>" in recipe.specials else None,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = recipe.template
    return tokenizer


def make_model(recipe: SourceRecipe, tokenizer: Any) -> Any:
    """The untrained model."""
    torch.manual_seed(recipe.seed)
    ends = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(recipe.end)})
    config = transformers.AutoConfig.for_model(
        recipe.architecture,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        **recipe.shape,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=ends if len(ends) > 1 else ends[0],
        bos_token_id=tokenizer.bos_token_id,
        do_sample=False,
    )
    return model


def examples(
    recipe: SourceRecipe, tokenizer: Any, problems: Sequence[Problem], rng: Random
) -> list[tuple[list[int], int]]:
    """(ids, length of the prompt) for each problem, encoded as the library encodes it."""
    exact = HuggingFaceTokenizer(
        tokenizer.backend_tokenizer, template=lambda messages: recipe.chat(messages[0]["content"])
    )
    end = tokenizer.convert_tokens_to_ids(recipe.end)
    found = []
    for problem in problems:
        raw = rng.random() < RAW_SHARE
        prompt: Any = (
            RAW.format(question=problem.question)
            if raw
            else [{"role": "user", "content": problem.question}]
        )
        prompt_ids = exact.encode_prompt(prompt)
        solution = exact.encode((" " if raw else "") + problem.solution)
        found.append(([*prompt_ids, *solution, end], len(prompt_ids)))
    return found


def batches(recipe: SourceRecipe, tokenizer: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, weights) batches (batch, tokens) of problems never seen before."""
    rng = Random(recipe.seed)
    block = 16
    number = 0
    while True:
        number += 1
        problems = generate(
            block * recipe.batch_size, seed=recipe.seed * 100_000 + number, skills=recipe.skills
        )
        ready = sorted(
            examples(recipe, tokenizer, problems, rng), key=lambda example: len(example[0])
        )
        groups = [ready[i : i + recipe.batch_size] for i in range(0, len(ready), recipe.batch_size)]
        rng.shuffle(groups)
        yield from (_collate(group) for group in groups)


def _collate(group: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids, _ in group)
    ids = torch.zeros(len(group), width, dtype=torch.long)
    weights = torch.zeros(len(group), width)
    for row, (sequence, prompt_length) in enumerate(group):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        weights[row, : len(sequence)] = QUESTION_WEIGHT
        weights[row, prompt_length : len(sequence)] = 1.0
    return ids, weights


def rate_at(step: int, recipe: SourceRecipe) -> float:
    """Learning rate: a short warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / 100)
    return recipe.peak_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def train(recipe: SourceRecipe, output: Path) -> None:
    """Train the source and save it in ``output``, replacing what is there at every checkpoint."""
    torch.set_num_threads(1)
    tokenizer = make_tokenizer(recipe)
    model = make_model(recipe, tokenizer)
    print(
        f"{recipe.name}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True
    )
    weights, supply = list(model.parameters()), batches(recipe, tokenizer)
    fit(recipe, model, weights, supply, lambda: save(model, tokenizer, output))


def fit(
    recipe: SourceRecipe,
    model: Any,
    weights: Sequence[torch.nn.Parameter],
    supply: Iterator[tuple[torch.Tensor, torch.Tensor]],
    keep: Callable[[], None],
) -> None:
    """Train ``weights`` of a model on what ``supply`` gives, by the recipe's steps and rates.

    ``keep`` is called every 400 steps and after the last.
    """
    optimizer = torch.optim.AdamW(
        weights, lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    begun = time.perf_counter()
    average = 0.0
    for step in range(recipe.steps):
        ids, shares = next(supply)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        logits = model(input_ids=ids[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (losses * shares[:, 1:].flatten()).sum() / shares[:, 1:].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 100 == 99 or step + 1 == recipe.steps:
            seconds = time.perf_counter() - begun
            print(f"{recipe.name} step {step + 1} loss {average:.4f} {seconds:.0f} s", flush=True)
        if step % 400 == 399 or step + 1 == recipe.steps:
            keep()


def save(model: Any, tokenizer: Any, output: Path) -> None:
    """Write a loadable folder in one move, so that a reader never meets half of it."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    shutil.rmtree(output, ignore_errors=True)
    fresh.rename(output)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    train(RECIPES[arguments.name], arguments.output)


if __name__ == "__main__":
    main()
