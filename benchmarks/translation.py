"""Does a translation model gain from a language model at decode time? No gain over the better one alone is bad news.

A tiny encoder-decoder has few pairs of sentences, mostly in the singular and short, but knows
every word; a tiny decoder has read much English and was shown translations of half of the
actors only. Their tokenizers differ. Both are trained here and then fused, each with a prompt
of its own; nothing is chosen by the held-out sentences.

    python -m benchmarks.translation [--models FOLDER] [--count 400] [--split dev]
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import processors

from benchmarks._results import finish, table
from benchmarks.translation_task import ACTORS, Pair, Style, held_out, sentences
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.source import Source
from coolfusion.decoding.answers.rerank import own_answers, rerank_answers
from coolfusion.decoding.decoder import Decoder
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import Mixture
from coolfusion.decoding.mixture.rules import Arithmetic, Geometric
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.recipe import PRESETS, make_recipe
from coolfusion.evaluation.statistics import bootstrap_interval, paired_p_value
from coolfusion.testing.toys import END, toy_tokenizer
from coolfusion.tokenization.prompts import Prompt

SEEDS = {"dev": 12, "test": 13}
REQUEST = Request(max_new_tokens=60)
RERANKED = "whole answers reranked"
# What the translation model saw: every word, but few plurals and few places.
PARALLEL = Style(plural=0.08, placed=0.15)
# What the language model was shown translations of: half of the actors, in all constructions.
SHOWN = Style(actors=tuple(ACTORS[::2]))
NUM_PARALLEL, NUM_SHOWN, NUM_ENGLISH = 2500, 5000, 20000


@dataclass(frozen=True)
class System:
    """A way to answer all prompts at once."""

    name: str
    answer: Callable[[Sequence[Prompt]], list[str]]


def systems(sources: Sequence[Source]) -> list[System]:
    """Every source alone, whole answers reranked, fusions by segments, and mixtures."""

    def alone(source: Source) -> System:
        return System(
            f"{source.name} alone",
            lambda prompts: [each.text for each in own_answers(source, prompts, REQUEST)],
        )

    def decoded(name: str, decoder: Decoder[Any]) -> System:
        return System(
            name, lambda prompts: [each.text for each in decoder.generate_batch(prompts, REQUEST)]
        )

    by_bytes = make_recipe(scores="bytes", reranker="bits_per_byte")

    def reranked(prompts: Sequence[Prompt]) -> list[str]:
        return [each.text for each in rerank_answers(SegmentDecoder(sources), prompts, REQUEST)]

    return [
        *map(alone, sources),
        System(RERANKED, reranked),
        *(decoded(f"segments, {n} preset", SegmentDecoder(sources, r)) for n, r in PRESETS.items()),
        decoded("segments, scored by bytes", SegmentDecoder(sources, by_bytes)),
        *(
            decoded(f"mixture, {rule.name}", MixtureDecoder(sources, Mixture(rule)))
            for rule in (Arithmetic(), Geometric())
        ),
    ]


def english_read() -> list[Pair]:
    """The sentences whose English, without its original, the language model has read."""
    return sentences(NUM_ENGLISH, 3, Style())


def prompt_of(pair: Pair) -> Prompt:
    """The translation model is given the bare sentence, the language model its task."""
    return {"mt": pair.source, "llm": task_text(pair.source)}


def task_text(source: str) -> str:
    """The language model's prompt; what follows begins with a space, as a translation does."""
    return f"{source} means:"


def chrf(answer: str, reference: str) -> float:
    """Sentence chrF2: F score, recall counting twice, of character n-grams of 1 to 6."""
    values = []
    for n in range(1, 7):
        got, wanted = (
            Counter(text[i : i + n] for i in range(len(text) - n + 1))
            for text in (answer.replace(" ", ""), reference.replace(" ", ""))
        )
        if not got and not wanted:
            continue
        both = sum((got & wanted).values())
        precision, recall = both / max(1, sum(got.values())), both / max(1, sum(wanted.values()))
        values.append(5 * precision * recall / max(1e-12, 4 * precision + recall))
    return sum(values) / len(values) if values else 1.0


def trained(folder: Path) -> list[Source]:
    """Both models, trained if the folder does not hold them yet."""
    if not (folder / "mt" / "config.json").exists():
        train_translator(folder / "mt")
    if not (folder / "llm" / "config.json").exists():
        train_writer(folder / "llm")
    return [load_source(folder / name, name, device="cpu") for name in ("mt", "llm")]


def wrapped(texts: Sequence[str], family: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that closes texts with its end token."""
    raw = toy_tokenizer(texts, family=family, vocab_size=600)
    raw.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, raw.token_to_id(END))]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=END)


def train_translator(folder: Path) -> None:
    """An encoder-decoder from ``NUM_PARALLEL`` pairs."""
    pairs = sentences(NUM_PARALLEL, 1, PARALLEL)
    tokenizer = wrapped(
        [text for pair in pairs for text in (pair.source, pair.target)], "sentencepiece_bpe"
    )
    end = tokenizer.eos_token_id
    torch.manual_seed(1)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.1,
            pad_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=0,
        )
    )

    def batch(chosen: Sequence[Pair]) -> dict[str, torch.Tensor]:
        read = tokenizer([pair.source for pair in chosen], return_tensors="pt", padding=True)
        said = tokenizer([pair.target for pair in chosen], return_tensors="pt", padding=True)
        labels = said.input_ids.masked_fill(said.attention_mask == 0, -100)
        return {
            "input_ids": read.input_ids,
            "attention_mask": read.attention_mask,
            "labels": labels,
        }

    fit(model, pairs, batch, steps=3000, rate=3e-3)
    save(model, tokenizer, folder)


def train_writer(folder: Path) -> None:
    """A decoder from ``NUM_ENGLISH`` sentences and ``NUM_SHOWN`` translations."""
    shown = [task_text(p.source) + " " + p.target for p in sentences(NUM_SHOWN, 2, SHOWN)]
    english = [task_text("text") + " " + p.target for p in english_read()]
    texts = shown + english
    tokenizer = wrapped(texts, "byte_bpe")
    end = tokenizer.eos_token_id
    torch.manual_seed(2)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=160,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=end,
        )
    )

    def batch(chosen: Sequence[str]) -> dict[str, torch.Tensor]:
        read = tokenizer(list(chosen), return_tensors="pt", padding=True)
        labels = read.input_ids.masked_fill(read.attention_mask == 0, -100)
        return {
            "input_ids": read.input_ids,
            "attention_mask": read.attention_mask,
            "labels": labels,
        }

    fit(model, texts, batch, steps=3000, rate=2e-3)
    save(model, tokenizer, folder)


def fit(
    model: Any, examples: Sequence[Any], batch: Callable[..., Any], *, steps: int, rate: float
) -> None:
    """Adam with a warm-up and a linear decay, in batches of 32 drawn by a fixed seed."""
    noise, begun = random.Random(4), time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 200, steps)
    model.train()
    for step in range(1, steps + 1):
        loss = model(**batch(noise.sample(examples, 32))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"{step} {loss.item():.3f} {time.perf_counter() - begun:.0f} s", flush=True)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint that ``load_source`` reads."""
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{folder.name}: {num_parameters:,} parameters", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A translation model fused with a language model.")
    parser.add_argument("--models", type=Path, default=Path("translation-models"))
    parser.add_argument("--split", choices=sorted(SEEDS), default="test")
    parser.add_argument("--count", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = trained(arguments.models)
    seen = {pair.source for pair in sentences(NUM_PARALLEL, 1, PARALLEL)}
    seen |= {pair.source for pair in sentences(NUM_SHOWN, 2, SHOWN)}
    seen |= {pair.target for pair in english_read()}
    pairs = held_out(arguments.count, SEEDS[arguments.split], Style(), seen)
    exact: dict[str, list[float]] = {}
    similar: dict[str, list[float]] = {}
    spent: dict[str, float] = {}
    for system in systems(sources):
        begun = time.perf_counter()
        answers = [text.strip() for text in system.answer([prompt_of(pair) for pair in pairs])]
        spent[system.name] = time.perf_counter() - begun
        both = list(zip(answers, pairs, strict=True))
        exact[system.name] = [float(text == pair.target) for text, pair in both]
        similar[system.name] = [chrf(text, pair.target) for text, pair in both]
        print(system.name, sum(exact[system.name]), answers[0], flush=True)
    alone = [f"{source.name} alone" for source in sources]
    best = max(alone, key=lambda name: sum(exact[name]))
    rows = [
        [
            name,
            interval(exact[name]),
            interval(similar[name]),
            *(
                ""
                if name in (*alone, other)
                else f"{paired_p_value(exact[name], exact[other]):.2g}"
                for other in (best, RERANKED)
            ),
            f"{spent[name] / len(pairs) * 1000:.0f}",
        ]
        for name in exact
    ]
    heading = (
        f"{len(pairs)} {arguments.split} sentences, means with 95 % bootstrap intervals, p of exact "
        f"match paired with the better model ({best}) and with whole answers reranked\n\n"
    )
    header = ["system", "exact match", "chrF2", "p (better alone)", "p (reranked)", "ms per answer"]
    record = {
        name: {"exact": sum(exact[name]), "chrf": sum(similar[name]) / len(pairs)} for name in exact
    }
    name = "translation" if arguments.split == "test" else f"translation_{arguments.split}"
    finish(
        name,
        {"split": arguments.split, "count": len(pairs), "systems": record},
        heading + table(header, rows),
    )


def interval(values: Sequence[float]) -> str:
    """A mean with its interval."""
    low, high = bootstrap_interval(values)
    return f"{sum(values) / len(values):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
