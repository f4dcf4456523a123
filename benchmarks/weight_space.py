"""Does one checkpoint made of specialists beat the best of them, and what does it cost beside fusing them?

Bad news would be merges below the best specialist, a Model Swarm that beats specialists and static
merges on the development problems it was searched on and not on held-out ones, or segment fusion
that is no better than a checkpoint which costs a fraction of it. The families are those of
``benchmarks.train_family``; problems mix all skills evenly. Numbers that a merge is free to choose
(and a swarm all of its shares) are chosen on development problems, from the grids below; the test
problems are looked at once. Times are processor seconds on one thread.

    python -m benchmarks.weight_space --family NAME --work FOLDER [--adapters]

The family's members are in FOLDER/NAME. What is built of them is kept in FOLDER/NAME-built with its
cost, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers

from benchmarks._results import finish, table
from benchmarks._workshop import REQUEST, TOGETHER, System, Workshop, solved, task_of
from benchmarks.minmax_threshold import MINMAX_THRESHOLD
from benchmarks.stories import SKILLS
from benchmarks.train_family import FAMILIES, Family
from benchmarks.word_problems import Problem, generate
from coolfusion.backends.huggingface import load_source
from coolfusion.evaluation import bootstrap_interval, paired_p_value
from coolfusion.merging import Adapter, Merge, Method
from coolfusion.search import Limits
from coolfusion.swarm import Experts, SwarmPlan

SEEDS = {"dev": 2, "test": 3}
NUM_PACED = 16  # answers that are timed one by one
PLAN = SwarmPlan(num_particles=10, limits=Limits(max_iterations=5, patience=4, restart=3))


@dataclass(frozen=True, slots=True)
class Measured:
    """A system on the test problems: what it solves (problems,), and what a token costs."""

    system: System
    values: tuple[float, ...]
    ms_per_token: float
    forwarded_per_token: float

    @property
    def mean(self) -> float:
        """Share solved."""
        return math.fsum(self.values) / len(self.values)


def grids(folder: Path, names: Iterable[str], best: str) -> dict[str, dict[str, Merge]]:
    """Every static merge by method: the merges to choose from, by what they are called.

    ``names`` are the specialists, ``best`` the one that is best on the development problems.
    """
    base = str(folder / "base")
    of = {name: str(folder / name) for name in names}
    experts = tuple(of.values())
    products = (of["groups"], of["money"])  # two specialists that multiply

    def on_base(
        method: str | Method, models: tuple[str | Merge, ...], **parameters: float
    ) -> Merge:
        return Merge(method, models, base, parameters=parameters)

    def two_levels(low: float, high: float) -> Merge:
        elected = on_base("ties", products, density=0.5, scale=low)
        return on_base("task_arithmetic", (of["sums"], elected), scale=high)

    return {
        "linear": {
            f"weights {weights}": Merge("linear", experts, weights=weights)
            for weights in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))
        },
        "SLERP of one and the SLERP of two": {
            f"t {t}": Merge("slerp", (of["sums"], Merge("slerp", products)), parameters={"t": t})
            for t in (0.5, 0.3, 0.7)
        },
        "task arithmetic": {
            f"scale {scale}": on_base("task_arithmetic", experts, scale=scale)
            for scale in (0.3, 0.4, 0.5, 0.7, 1.0)
        },
        "TIES": {
            f"density {density}, scale {scale}": on_base(
                "ties", experts, density=density, scale=scale
            )
            for density in (0.2, 0.5, 1.0)
            for scale in (0.5, 1.0, 1.5)
        },
        "DARE": {
            f"drop {drop}, scale {scale}": on_base("dare", experts, drop=drop, scale=scale)
            for drop in (0.2, 0.5)
            for scale in (0.3, 0.5, 0.7)
        },
        "MoD's rule": {
            f"{best} into the base, threshold {threshold}": on_base(
                MINMAX_THRESHOLD, (of[best],), threshold=threshold
            )
            for threshold in (0.9, 0.7, 0.5)
        },
        "two levels (TIES of two, task arithmetic)": {
            f"scales {low} and {high}": two_levels(low, high)
            for low in (0.5, 1.0, 1.5)
            for high in (0.5, 0.75, 1.0)
        },
    }


def swarms(family: Family, folder: Path, *, adapters: bool) -> dict[str, tuple[Experts, SwarmPlan]]:
    """Every search by name, that between adapters if it is asked for."""
    base = str(folder / "base")
    whole = tuple(str(folder / name) for name in family.specialists)
    wide = replace(PLAN, reach=2.0)
    searches = {
        "Model Swarms": (Experts(whole), PLAN),
        "Model Swarms with the base, reach 2": (Experts((base, *whole)), wide),
    }
    if adapters:
        low_rank = (Adapter(str(folder / name), base) for name in family.adapters)
        name = "Model Swarms of adapters with the base, reach 2"
        searches[name] = (Experts((base, *low_rank)), wide)
    return searches


def build_all(family: Family, shop: Workshop, *, adapters: bool) -> list[System]:
    """Every row of the table, in its order."""
    names, members = tuple(family.specialists), shop.members
    systems = [shop.given("base", members / "base", "base")]
    specialists = [shop.given(name, members / name, "specialist") for name in names]
    best = max(specialists, key=lambda system: system.dev)
    systems += specialists
    systems += [shop.best_of(name, grid) for name, grid in grids(members, names, best.name).items()]
    searches = swarms(family, members, adapters=adapters)
    systems += [shop.searched(name, *search) for name, search in searches.items()]
    return systems + [shop.together(name, names) for name in TOGETHER]


def measured(system: System, problems: Sequence[Problem]) -> Measured:
    """A system on the test problems."""
    task = task_of(problems)
    values = solved(system.answers(), task)
    answers = system.answers()  # one that remembers no prompt
    tokenizer = load_source(system.paths[0], "model").tokenizer
    num_tokens = num_forwarded = 0
    begun = time.process_time()
    for row in task.rows[:NUM_PACED]:
        (generation,) = answers.generate_batch([row.prompt], REQUEST)
        num_tokens += len(tokenizer.encode(generation.text)) + 1  # the end token
        num_forwarded += sum(each.num_forwarded for each in generation.stats.usage.values())
    seconds = time.process_time() - begun
    found = Measured(system, tuple(values), 1000 * seconds / num_tokens, num_forwarded / num_tokens)
    print(system.name, found.mean, flush=True)
    return found


def best_of_kind(found: Sequence[Measured], kind: str) -> Measured:
    """The best on the test problems themselves: in hindsight, which favours it."""
    return max((each for each in found if each.system.kind == kind), key=lambda each: each.mean)


def systems_table(found: Sequence[Measured]) -> str:
    """Quality and cost of every system."""
    rival = best_of_kind(found, "specialist")
    rows = []
    for each in found:
        low, high = bootstrap_interval(each.values)
        system = each.system
        rows.append(
            [
                system.name + (" (best specialist)" if each is rival else ""),
                f"{each.mean:.3f} ({low:.3f}-{high:.3f})",
                "" if each is rival else f"{paired_p_value(each.values, rival.values):.2g}",
                f"{system.dev:.3f}",
                system.num_evaluations,
                f"{system.seconds:.1f}" if system.seconds else "",
                len(system.paths),
                f"{each.ms_per_token:.1f}",
                f"{each.forwarded_per_token:.1f}",
            ]
        )
    header = ["system", "solved (95 % interval)", "p against the best specialist"]
    header += ["on dev", "models tried on dev", "seconds to build", "models in memory"]
    return table([*header, "ms per token", "forwarded per token"], rows)


def skills_table(found: Sequence[Measured], problems: Sequence[Problem]) -> str:
    """Share solved by skill, and what was chosen on the development problems."""
    rows = []
    for each in found:
        shares = []
        for skill in SKILLS:
            values = [
                value
                for value, problem in zip(each.values, problems, strict=True)
                if problem.skill == skill
            ]
            shares.append(f"{math.fsum(values) / len(values):.2f}")
        rows.append([each.system.name, *shares, each.system.chosen])
    return table(["system", *SKILLS, "chosen"], rows)


def swarms_table(found: Sequence[Measured]) -> str:
    """Every swarm beside the best specialist and the best static merge, on both splits."""
    rows = []
    for each in (each for each in found if each.system.kind == "swarm"):
        for kind in ("specialist", "static"):
            rival = best_of_kind(found, kind)
            differences = [
                mine - theirs for mine, theirs in zip(each.values, rival.values, strict=True)
            ]
            low, high = bootstrap_interval(differences)
            p_value = paired_p_value(each.values, rival.values)
            rows.append(
                [
                    each.system.name,
                    f"{rival.system.name} ({kind})",
                    f"{each.system.dev - rival.system.dev:+.3f}",
                    f"{each.mean - rival.mean:+.3f} ({low:+.3f} to {high:+.3f})",
                    f"{p_value:.2g}",
                    "no difference shown" if p_value >= 0.05 else "yes" if low > 0 else "no, worse",
                ]
            )
    header = ["swarm", "against the best", "on dev", "on test (95 % interval)", "p", "better?"]
    return table(header, rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dev", type=int, default=120, help="development problems, at most 200")
    parser.add_argument("--count", type=int, default=400, help="test problems")
    parser.add_argument("--adapters", action="store_true", help="search between adapters too")
    options = parser.parse_args()
    family, folder = FAMILIES[options.family], options.work / options.family
    if options.adapters and not family.adapters:
        parser.error(f"the family {options.family} has no adapters")
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    dev = generate(options.dev, seed=SEEDS["dev"], split="dev")
    shop = Workshop(folder, folder.with_name(f"{folder.name}-built"), task_of(dev))
    systems = build_all(family, shop, adapters=options.adapters)
    problems = generate(options.count, seed=SEEDS["test"], split="test")
    found = [measured(system, problems) for system in systems]
    record = {
        "dev": len(dev),
        "test": len(problems),
        "systems": [
            {
                **asdict(each.system),
                "paths": len(each.system.paths),
                "solved": each.mean,
                "interval": bootstrap_interval(each.values),
                "ms_per_token": each.ms_per_token,
                "forwarded_per_token": each.forwarded_per_token,
            }
            for each in found
        ],
    }
    texts = [
        f"{len(problems)} test problems of all skills; choices were made on {len(dev)} development problems. "
        "The best specialist is the one that is best on the test problems.",
        systems_table(found),
        "Share solved by skill, and what was chosen.",
        skills_table(found, problems),
        "Model Swarms beside the best specialist and the best static merge, both chosen in hindsight on "
        "the test problems.",
        swarms_table(found),
    ]
    finish(f"weight_space_{options.family}", record, "\n\n".join(texts))


if __name__ == "__main__":
    main()
