"""An invented language and its English: a deterministic grammar with words that have two senses.

The invented language puts the verb last and adjectives after their nouns, has no articles and
marks a plural with ``-en``; English has articles, agreement and irregular plurals, and which
sense a noun has is known from the verb. Everything is a function of a seed.

    bravu rinoen kelu tosam   ->   the old men eat the pear
"""

from __future__ import annotations

import random
from dataclasses import dataclass

REGULAR = "dog cat farmer doctor singer painter boy girl king queen baker sailor".split()
IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "wolf": "wolves",
    "thief": "thieves",
    "sheep": "sheep",
    "ox": "oxen",
    "wife": "wives",
    "fish": "fish",
    "calf": "calves",
}
FOODS = "pear apple bean egg carrot cake onion plum melon nut".split()
THINGS = "lamp chair box ladder basket book coat rope spoon clock".split()
FOOD_VERBS = "eat cook peel taste chew boil".split()
THING_VERBS = "carry break paint hide lift clean".split()
ADJECTIVES = "old young small tall happy tired quiet brave clever hungry".split()
PLACES = "house river tree tower bridge garden".split()
SIDES = "near behind under".split()
# Pairs of a food and a thing that the invented language has one word for.
SHARED = dict(zip(FOODS[:6], THINGS[:6], strict=True))

_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def _invented(words: list[str]) -> dict[str, str]:
    """A word of the invented language for each English one; no two are alike."""
    noise = random.Random(20231108)
    pool = [a + b for a in _SYLLABLES for b in _SYLLABLES]
    return dict(zip(words, noise.sample(pool, len(words)), strict=True))


ACTORS = [*REGULAR, *IRREGULAR]
INVENTED = _invented(
    [*ACTORS, *FOODS, *THINGS, *FOOD_VERBS, *THING_VERBS, *ADJECTIVES, *PLACES, *SIDES]
)
INVENTED.update({thing: INVENTED[food] for food, thing in SHARED.items()})


@dataclass(frozen=True)
class Pair:
    """A sentence of the invented language and its translation."""

    source: str
    target: str


@dataclass(frozen=True)
class Style:
    """Which sentences are made: of whom, how often in the plural, described, or with a place."""

    actors: tuple[str, ...] = tuple(ACTORS)
    plural: float = 0.5
    described: float = 0.5
    placed: float = 0.5


def sentences(count: int, seed: int, style: Style) -> list[Pair]:
    """``count`` sentences, in which repetitions may occur."""
    noise = random.Random(seed)
    return [_sentence(noise, style) for _ in range(count)]


def held_out(count: int, seed: int, style: Style, seen: set[str]) -> list[Pair]:
    """``count`` sentences, all different, of which neither side is among what was ``seen``."""
    noise, found = random.Random(seed), {}
    while len(found) < count:
        pair = _sentence(noise, style)
        if pair.source not in seen and pair.target not in seen:
            found[pair.source] = pair
    return list(found.values())


def _sentence(noise: random.Random, style: Style) -> Pair:
    source, target = [], []
    actor, are_many = noise.choice(style.actors), noise.random() < style.plural
    is_food = noise.random() < 0.5
    verb = noise.choice(FOOD_VERBS if is_food else THING_VERBS)
    thing = noise.choice(FOODS if is_food else THINGS)
    things_are_many = noise.random() < style.plural
    for noun, is_plural in ((actor, are_many), (thing, things_are_many)):
        source.append(INVENTED[noun] + ("en" if is_plural else ""))
        phrase = [plural(noun) if is_plural else noun]
        if noise.random() < style.described:
            adjective = noise.choice(ADJECTIVES)
            source.append(INVENTED[adjective])
            phrase.insert(0, adjective)
        target += ["the", *phrase]
        if noun == actor:
            target.append(verb if are_many else third_person(verb))
    if noise.random() < style.placed:
        place, side = noise.choice(PLACES), noise.choice(SIDES)
        source += [INVENTED[place], INVENTED[side]]
        target += [side, "the", place]
    source.append(INVENTED[verb])
    return Pair(" ".join(source), " ".join(target))


def plural(noun: str) -> str:
    """More than one of it."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    return noun + ("es" if noun.endswith(("x", "s", "ch")) else "s")


def third_person(verb: str) -> str:
    """What one of them does."""
    if verb.endswith("y"):
        return verb[:-1] + "ies"
    return verb + "s"
