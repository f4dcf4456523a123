"""A seeded, endless supply of grade-school word problems with worked solutions.

A problem belongs to the training, dev or test split by a stable hash of its kind of story, all of
its numbers, and the thing or ware it counts. The same combination therefore never occurs in two
splits, whatever the seeds, names and phrasing: 90 % of combinations are for training, 5 % for
development, 5 % for tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Final, Literal

from benchmarks.stories import SKILLS, STORIES, Numbers, Story
from benchmarks.word_bank import ASIDES, FAMILIES, HE, SHE, WARES, Noun

Split = Literal["train", "dev", "test"]

_CHOICE: Final = re.compile(r"\[([^\[\]]*)\]")
_ANSWER: Final = re.compile(r"The answer is (-?\d+)\.")
_DOLLARS: Final = Noun("dollar", "dollars")
_ASIDE_RATE: Final = 0.15


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its worked solution, the bare answer in digits, and the skill it takes."""

    question: str
    solution: str
    answer: str
    skill: str


@dataclass(frozen=True, slots=True)
class _Amount:
    """A number that a template may ask for alone or with one of the nouns of the problem."""

    value: int
    nouns: Mapping[str, Noun]

    def __format__(self, noun: str) -> str:
        return f"{self.value} {self.nouns[noun].counted(self.value)}" if noun else str(self.value)


def extract_answer(text: str) -> str | None:
    """The number that `text` states last as its answer, or None if it states none."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None


def generate(
    count: int,
    *,
    seed: int,
    skills: Sequence[str] | Mapping[str, float] | None = None,
    split: Split = "train",
) -> list[Problem]:
    """`count` problems of `split`, the same for the same arguments.

    `skills` names those to draw from, evenly, or maps each to its share; default all, evenly.
    """
    shares = skills if isinstance(skills, Mapping) else dict.fromkeys(skills or SKILLS, 1.0)
    unknown = sorted(set(shares) - set(SKILLS))
    if unknown:
        raise ValueError(f"unknown skills {unknown}; choose from {', '.join(SKILLS)}")
    rng = Random(f"{split}/{seed}")
    drawn = rng.choices(list(shares), weights=list(shares.values()), k=count)
    stories = {skill: [story for story in STORIES if story.skill == skill] for skill in shares}
    return [_problem(rng, stories[skill], split) for skill in drawn]


def _problem(rng: Random, stories: Sequence[Story], split: Split) -> Problem:
    while True:
        story = rng.choice(stories)
        numbers = story.draw(rng)
        family = rng.choice(FAMILIES)
        nouns = {
            "n": rng.choice(family.nouns),
            "c": rng.choice(family.containers),
            "d": _DOLLARS,
            **dict(zip("wv", rng.sample(WARES, 2), strict=True)),
        }
        if _split_of(story, numbers, nouns) == split:
            break
    gain, loss = rng.choice(family.gains), rng.choice(family.losses)
    fields = _fields(rng, numbers, nouns) | {"gain": gain}
    for name in "yz":
        fields[f"loss_{name}"] = loss.format(fields.get(name), B=fields["B"])
    answer = str(numbers["r"])
    solution = f"{_tell(rng, story.solution, fields)} The answer is {answer}."
    return Problem(_tell(rng, story.question, fields), solution, answer, story.skill)


def _split_of(story: Story, numbers: Numbers, nouns: Mapping[str, Noun]) -> Split:
    counted = nouns["w" if story.skill == "money" else "n"]
    key = f"{story.kind} {sorted(numbers.items())} {counted.singular}"
    bucket = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % 20
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def _fields(rng: Random, numbers: Numbers, nouns: Mapping[str, Noun]) -> dict[str, object]:
    """What templates may name, apart from the verbs."""
    she = rng.random() < 0.5
    first = rng.choice(SHE if she else HE)
    second = rng.choice([name for name in SHE + HE if name != first])
    fields: dict[str, object] = {name: _Amount(value, nouns) for name, value in numbers.items()}
    fields |= {key: noun.plural for key, noun in nouns.items()}
    fields |= {f"{key}1": noun.singular for key, noun in nouns.items()}
    fields |= {"A": first, "B": second, "he": "she" if she else "he", "He": "She" if she else "He"}
    aside = ""
    if rng.random() < _ASIDE_RATE:
        some = {"age": rng.randint(6, 14), "hour": rng.randint(8, 10)}
        aside = " " + rng.choice(ASIDES).format(**fields, **some)
    return fields | {"aside": aside}


def _tell(rng: Random, template: str, fields: Mapping[str, object]) -> str:
    chosen = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return chosen.format(**fields)
