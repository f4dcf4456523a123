"""Train one base and, from it, three specialists and a LoRA adapter for each of their fields.

    python -m benchmarks.train_family --output FAMILY

FAMILY gets the folders "base", "sums", "groups", "money", "lora-sums", "lora-groups" and
"lora-money" (about twenty minutes on one core; folders that exist are kept), and "baked" with the
adapters as checkpoints. The base has seen all skills and is stopped long before it masters them; a
specialist goes on with nothing but its own and forgets some of the others. Last, the share of
development problems that each member solves is printed by skill: a base without room above it,
or specialists without a speciality, would leave merging nothing to show.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from benchmarks._results import finish, table
from benchmarks.settings import right
from benchmarks.stories import SKILLS
from benchmarks.train_builtin import (
    RECIPES,
    SourceRecipe,
    batches,
    fit,
    make_model,
    make_tokenizer,
    save,
)
from benchmarks.word_problems import generate
from coolfusion.backends.huggingface import load_source
from coolfusion.merging import Adapter, Merge, merge
from coolfusion.recipe import Recipe
from coolfusion.sources import Source

BASE = replace(
    RECIPES["groups"],
    name="base",
    skills=dict.fromkeys(SKILLS, 0.25),
    seed=66,
    steps=1500,
    batch_size=24,
)
# Sums are the hard part of two kinds of stories, and take longest to learn.
SPECIALISTS = {
    recipe.name: recipe
    for recipe in (
        replace(
            BASE,
            name="sums",
            skills={"change": 0.5, "compare": 0.5},
            seed=67,
            steps=1200,
            peak_rate=2e-3,
        ),
        replace(BASE, name="groups", skills={"groups": 1.0}, seed=68, steps=400, peak_rate=1e-3),
        replace(BASE, name="money", skills={"money": 1.0}, seed=69, steps=400, peak_rate=1e-3),
    )
}
ADAPTERS = {
    f"lora-{name}": replace(recipe, name=f"lora-{name}", steps=400, peak_rate=3e-3)
    for name, recipe in SPECIALISTS.items()
}
RANK, ALPHA = 16, 32
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DEV_SEED, DEV_COUNT = 2, 80  # problems of each skill


class LowRank(torch.nn.Module):  # type: ignore[misc]
    """A weight W (outputs, inputs) as W + (alpha / r) B A; B begins at 0 (arXiv 2106.09685)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        num_outputs, num_inputs = weight.shape
        self.down = torch.nn.Parameter(torch.randn(RANK, num_inputs) / num_inputs**0.5)
        self.up = torch.nn.Parameter(torch.zeros(num_outputs, RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The adapted weight."""
        return weight + (ALPHA / RANK) * (self.up @ self.down)


def train_base(output: Path) -> None:
    """Train the base from scratch."""
    tokenizer = make_tokenizer(BASE)
    model = make_model(BASE, tokenizer)
    keep = _saver(model, tokenizer, output)
    fit(BASE, model, list(model.parameters()), batches(BASE, tokenizer), keep)


def train_specialist(recipe: SourceRecipe, base: Path, output: Path) -> None:
    """Train all weights of the base further, on the recipe's skills."""
    model, tokenizer = _loaded(base)
    keep = _saver(model, tokenizer, output)
    fit(recipe, model, list(model.parameters()), batches(recipe, tokenizer), keep)


def train_adapter(recipe: SourceRecipe, base: Path, output: Path) -> None:
    """Train low-rank changes of the base's projections, and store them in peft's layout."""
    model, tokenizer = _loaded(base)
    torch.manual_seed(recipe.seed)
    adapted = adapted_modules(model)
    weights = [weight for each in adapted.values() for weight in each.parameters()]
    fit(recipe, model, weights, batches(recipe, tokenizer), lambda: None)
    save_adapter(adapted, base, output)


def adapted_modules(model: Any) -> dict[str, LowRank]:
    """Adapt every projection of a model in place; the changes by the name of their module."""
    adapted: dict[str, LowRank] = {}
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] in PROJECTIONS:
            adapted[name] = LowRank(module.weight)
            torch.nn.utils.parametrize.register_parametrization(module, "weight", adapted[name])
    return adapted


def save_adapter(adapted: Mapping[str, LowRank], base: Path, output: Path) -> None:
    """An adapter's configuration and factors by the name of the matrix that they change."""
    output.mkdir(parents=True)
    tensors = {}
    for name, each in adapted.items():
        for side, factor in (("A", each.down), ("B", each.up)):
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = factor.detach().contiguous()
    save_file(tensors, output / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(PROJECTIONS),
        "bias": "none",
    }
    (output / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def train_family(folder: Path) -> None:
    """Train every member that is not in ``folder`` yet."""
    torch.set_num_threads(1)
    base = folder / "base"
    if not base.exists():
        train_base(base)
    for recipes, how in ((SPECIALISTS, train_specialist), (ADAPTERS, train_adapter)):
        for name, recipe in recipes.items():
            if not (folder / name).exists():
                how(recipe, base, folder / name)


def source_of(folder: Path, name: str) -> Source:
    """A member as a source; an adapter is baked into the base beside it first."""
    if name not in ADAPTERS:
        return load_source(folder / name, name)
    baked = folder / "baked" / name
    if not baked.exists():
        baked.parent.mkdir(exist_ok=True)
        merge(Merge("linear", (Adapter(folder / name, folder / "base"),)), baked)
    return load_source(baked, name)


def on_dev(folder: Path) -> dict[str, list[float]]:
    """The share of development problems solved, by member and skill."""
    found: dict[str, list[float]] = {}
    for name in ("base", *SPECIALISTS, *ADAPTERS):
        source = source_of(folder, name)
        found[name] = []
        for skill in SKILLS:
            problems = generate(DEV_COUNT, seed=DEV_SEED, skills=[skill], split="dev")
            found[name].append(sum(right(Recipe(), [source], problems)) / len(problems))
    return found


def _loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.train(), transformers.AutoTokenizer.from_pretrained(folder)


def _saver(model: Any, tokenizer: Any, output: Path) -> Any:
    output.parent.mkdir(parents=True, exist_ok=True)
    return lambda: save(model, tokenizer, output)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    folder = parser.parse_args().output
    transformers.logging.disable_progress_bar()
    train_family(folder)
    solved = on_dev(folder)
    rows = [
        [name, *(f"{share:.2f}" for share in (*shares, sum(shares) / len(shares)))]
        for name, shares in solved.items()
    ]
    text = f"Share solved of {DEV_COUNT} development problems of each skill.\n\n"
    finish("train_family", {"solved": solved}, text + table(["member", *SKILLS, "all"], rows))


if __name__ == "__main__":
    main()
