"""The words the generated problems are told with: names, things, containers, wares, asides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Noun:
    """A countable thing in both numbers."""

    singular: str
    plural: str

    def counted(self, number: int) -> str:
        """The form that goes with `number`."""
        return self.singular if number == 1 else self.plural


@dataclass(frozen=True, slots=True)
class Family:
    """Things that people come by, and part with, in the same ways."""

    gains: tuple[str, ...]
    losses: tuple[str, ...]
    containers: tuple[Noun, ...]
    nouns: tuple[Noun, ...]


def _regular(words: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, word + "s") for word in words.split())


def _irregular(pairs: str) -> tuple[Noun, ...]:
    return tuple(Noun(*pair.split("/")) for pair in pairs.split())


SHE: Final = tuple(
    (
        "Mia Anna Zoe Lena Ivy Ruth Nora Ella Maya Lily Rosa Jane Eva Tara Amy Clara Dina "
        "Freya Gwen Hana Iris Julia Kate Lucy Mary Nina Olga Paula Rita Sara Tess Uma Vera "
        "Wendy Yara Alma Beth Carla Edith Fiona Grace Heidi Irma Joan Leah"
    ).split()
)
HE: Final = tuple(
    (
        "Tom Ben Sam Leo Max Omar Paul Hugo Finn Noah Adam Carl Dan Eli Felix Gus Hal Ivan "
        "Jack Karl Liam Marc Ned Otto Pete Raj Seth Theo Vic Walt Yusuf Zack Amir Boris "
        "Colin Dean Emil Frank Glen Henry Jonas Kofi Luis Miles Oscar"
    ).split()
)

_SMALL: Final = (*_regular("bag jar tin bowl tray packet"), *_irregular("box/boxes"))
_FRESH: Final = (*_regular("bag basket crate bowl carton sack"), *_irregular("box/boxes"))
_BAKED: Final = (*_regular("bag basket tray tin packet"), *_irregular("box/boxes"))
_PAPER: Final = (*_regular("bag crate packet carton"), *_irregular("box/boxes"))

FAMILIES: Final = (
    Family(
        gains=("finds", "gets", "is given", "buys"),
        losses=("gives {B} {}", "loses {}", "gives away {}", "sells {}"),
        containers=_SMALL,
        nouns=_regular(
            "shell marble sticker bead button stamp card coin pebble badge ribbon feather stone key"
        )
        + _irregular("toy/toys brush/brushes leaf/leaves"),
    ),
    Family(
        gains=("picks", "gets", "is given", "buys"),
        losses=("eats {}", "gives {B} {}", "gives away {}", "sells {}"),
        containers=_FRESH,
        nouns=_regular("apple pear plum lemon grape fig carrot orange nut onion")
        + _irregular("peach/peaches cherry/cherries berry/berries potato/potatoes tomato/tomatoes"),
    ),
    Family(
        gains=("bakes", "gets", "is given", "buys"),
        losses=("eats {}", "gives {B} {}", "gives away {}", "sells {}"),
        containers=_BAKED,
        nouns=_regular("cookie muffin cake roll biscuit bun pie")
        + _irregular("loaf/loaves pastry/pastries"),
    ),
    Family(
        gains=("finds", "gets", "is given", "buys"),
        losses=("gives {B} {}", "loses {}", "gives away {}", "lends {B} {}"),
        containers=_PAPER,
        nouns=_regular("pencil crayon eraser notebook book pen ruler folder magazine"),
    ),
)

WARES: Final = (
    *_regular("book pen ball kite hat cup lamp plate mug game puzzle poster rope plant"),
    *_irregular("toy/toys scarf/scarves brush/brushes torch/torches"),
)

ASIDES: Final = (
    "It is a sunny day.",
    "It is raining outside.",
    "{A} likes {n} very much.",
    "{A} is {age} years old.",
    "The clock says {hour}.",
    "{A} lives at number {age}.",
    "School starts at {hour}.",
    "The weather is nice.",
)
