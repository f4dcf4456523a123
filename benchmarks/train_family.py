"""Train a family: one base and, from it, three specialists, and for some a LoRA adapter of each field.

    python -m benchmarks.train_family --family NAME --work FOLDER

FOLDER/NAME gets the folders "base", "sums", "groups" and "money" (about twenty minutes on one
core; folders that exist are kept), and where the family has adapters "lora-sums", "lora-groups"
and "lora-money", with "baked" for them as checkpoints. Two families differ in how far the
specialists go: "far" has a base stopped long before it masters its skills, and specialists that
went on with nothing but their own and forgot some of the others; "near" has a base trained a little
longer, and specialists that went on gently and kept seeing some of everything. Last, it is printed
for each member how far it moved from the base, relative to the base's length, and which share of
development problems it solves, by skill: a base without room above it, or specialists without a
speciality, would leave merging nothing to show.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

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
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.merging import Adapter, Merge, merge


@dataclass(frozen=True, slots=True)
class Family:
    """How a base is trained from scratch, and all else from it."""

    base: SourceRecipe
    specialists: Mapping[str, SourceRecipe]
    adapters: Mapping[str, SourceRecipe] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all members, the base first."""
        return ("base", *self.specialists, *self.adapters)


def _by_name(*recipes: SourceRecipe) -> dict[str, SourceRecipe]:
    return {recipe.name: recipe for recipe in recipes}


def _mostly(*skills: str) -> dict[str, float]:
    """Four problems in five from these skills, one from any of the others."""
    others = [skill for skill in SKILLS if skill not in skills]
    shares = dict.fromkeys(skills, 0.8 / len(skills))
    return shares | dict.fromkeys(others, 0.2 / len(others))


BASE = replace(
    RECIPES["groups"],
    name="base",
    skills=dict.fromkeys(SKILLS, 0.25),
    seed=66,
    steps=1500,
    batch_size=24,
)
# Sums are the hard part of two kinds of stories, and take longest to learn.
FAR = _by_name(
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
FAR_ADAPTERS = _by_name(
    *(
        replace(recipe, name=f"lora-{recipe.name}", steps=400, peak_rate=3e-3)
        for recipe in FAR.values()
    )
)
GENTLE = replace(BASE, steps=300, peak_rate=1e-3)
NEAR = _by_name(
    replace(GENTLE, name="sums", skills=_mostly("change", "compare"), seed=67),
    replace(GENTLE, name="groups", skills=_mostly("groups"), seed=68),
    replace(GENTLE, name="money", skills=_mostly("money"), seed=69),
)
FAMILIES = {
    "far": Family(BASE, FAR, FAR_ADAPTERS),
    "near": Family(replace(BASE, steps=1800), NEAR),
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


def train_base(recipe: SourceRecipe, output: Path) -> None:
    """Train a base from scratch."""
    tokenizer = make_tokenizer(recipe)
    model = make_model(recipe, tokenizer)
    keep = _saver(model, tokenizer, output)
    fit(recipe, model, list(model.parameters()), batches(recipe, tokenizer), keep)


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


def train_family(family: Family, folder: Path) -> None:
    """Train every member that is not in ``folder`` yet."""
    torch.set_num_threads(1)
    base = folder / "base"
    if not base.exists():
        train_base(family.base, base)
    for recipes, how in ((family.specialists, train_specialist), (family.adapters, train_adapter)):
        for name, recipe in recipes.items():
            if not (folder / name).exists():
                how(recipe, base, folder / name)


def checkpoint_of(family: Family, folder: Path, name: str) -> Path:
    """Where a member is as a checkpoint; an adapter is baked into the base beside it first."""
    if name not in family.adapters:
        return folder / name
    baked = folder / "baked" / name
    if not baked.exists():
        baked.parent.mkdir(exist_ok=True)
        merge(Merge("linear", (Adapter(folder / name, folder / "base"),)), baked)
    return baked


def moved(checkpoint: Path, base: Path) -> float:
    """The distance between two checkpoints, relative to the length of the second."""
    weights, origin = (load_file(each / "model.safetensors") for each in (checkpoint, base))
    squares = sum((weights[name] - origin[name]).square().sum().item() for name in origin)
    return math.sqrt(squares / sum(each.square().sum().item() for each in origin.values()))


def on_dev(checkpoint: Path) -> list[float]:
    """The share of development problems that a member solves, by skill."""
    source = load_source(checkpoint, "member")
    shares = []
    for skill in SKILLS:
        problems = generate(DEV_COUNT, seed=DEV_SEED, skills=[skill], split="dev")
        shares.append(sum(right(Recipe(), [source], problems)) / len(problems))
    return shares


def _loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.train(), transformers.AutoTokenizer.from_pretrained(folder)


def _saver(model: Any, tokenizer: Any, output: Path) -> Any:
    output.parent.mkdir(parents=True, exist_ok=True)
    return lambda: save(model, tokenizer, output)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    family, folder = FAMILIES[options.family], options.work / options.family
    train_family(family, folder)
    paths = {name: checkpoint_of(family, folder, name) for name in family.names}
    solved = {name: on_dev(path) for name, path in paths.items()}
    distances = {name: moved(path, paths["base"]) for name, path in paths.items()}
    rows = [
        [
            name,
            f"{distances[name]:.2f}",
            *(f"{share:.2f}" for share in (*shares, sum(shares) / len(shares))),
        ]
        for name, shares in solved.items()
    ]
    text = (
        f"Distance from the base, relative to its length, and share solved of {DEV_COUNT} "
        "development problems of each skill.\n\n"
    )
    finish(
        f"train_family_{options.family}",
        {"solved": solved, "distance": distances},
        text + table(["member", "distance", *SKILLS, "all"], rows),
    )


if __name__ == "__main__":
    main()
