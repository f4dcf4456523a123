"""The stories behind the word problems: what is drawn, how it is told, how it is solved.

A telling is a template: `[a|b]` picks one alternative, `{x}` is a bare number, `{x:n}` a number
with the thing counted, `{x:c}` with the container, `{x:w}` with the ware, `{x:d}` with dollars.
Every solution ends in "The answer is N.", which `word_problems` appends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

Numbers = dict[str, int]


@dataclass(frozen=True, slots=True)
class Story:
    """One kind of problem: `draw` gives its numbers, of which `r` is the answer."""

    skill: str
    kind: str
    draw: Callable[[Random], Numbers]
    question: str
    solution: str


def _gain(rng: Random) -> Numbers:
    x, y = rng.randint(3, 60), rng.randint(2, 39)
    return {"x": x, "y": y, "r": x + y}


def _loss(rng: Random) -> Numbers:
    x = rng.randint(8, 80)
    y = rng.randint(2, min(x - 1, 39))
    return {"x": x, "y": y, "r": x - y}


def _gain_loss(rng: Random) -> Numbers:
    x, y = rng.randint(3, 40), rng.randint(2, 30)
    z = rng.randint(2, min(x + y - 1, 30))
    return {"x": x, "y": y, "z": z, "s": x + y, "r": x + y - z}


def _loss_gain(rng: Random) -> Numbers:
    x = rng.randint(8, 60)
    y, z = rng.randint(2, min(x - 1, 30)), rng.randint(2, 30)
    return {"x": x, "y": y, "z": z, "s": x - y, "r": x - y + z}


def _more_total(rng: Random) -> Numbers:
    x, y = rng.randint(3, 35), rng.randint(2, 25)
    return {"x": x, "y": y, "s": x + y, "r": x + x + y}


def _fewer_total(rng: Random) -> Numbers:
    x = rng.randint(6, 45)
    y = rng.randint(2, min(x - 2, 25))
    return {"x": x, "y": y, "s": x - y, "r": x + x - y}


def _product(rng: Random) -> Numbers:
    x, y = rng.randint(2, 9), rng.randint(2, 10)
    return {"x": x, "y": y, "r": x * y}


def _quotient(rng: Random) -> Numbers:
    y, r = rng.randint(2, 9), rng.randint(2, 10)
    return {"x": y * r, "y": y, "r": r}


def _product_plus(rng: Random) -> Numbers:
    x, y, z = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 15)
    return {"x": x, "y": y, "z": z, "s": x * y, "r": x * y + z}


def _product_minus(rng: Random) -> Numbers:
    x, y = rng.randint(2, 9), rng.randint(2, 9)
    z = rng.randint(2, min(x * y - 1, 15))
    return {"x": x, "y": y, "z": z, "s": x * y, "r": x * y - z}


def _note_change(rng: Random) -> Numbers:
    z = rng.choice((10, 20, 50))
    x = rng.randint(2, z - 1)
    return {"x": x, "z": z, "r": z - x}


def _product_change(rng: Random) -> Numbers:
    while True:
        x, y, z = rng.randint(2, 9), rng.randint(2, 9), rng.choice((20, 50, 100))
        if x * y < z:
            return {"x": x, "y": y, "z": z, "s": x * y, "r": z - x * y}


_NOW = "How many {n} does {A} have [now|in all|altogether]?"
_LEFT = "How many {n} does {A} have left?"
_BOTH = "How many {n} do they have [together|in all|altogether]?"
_OPEN = "[{A} has {x:n}|{A} starts with {x:n}|{A} has {x:n} at home].{aside}"
_COST = "[costs|is priced at]"
_EACH = "[Each {w1} costs ${y}|The price of one {w1} is ${y}]"

STORIES: Final = (
    Story(
        "change",
        "gain",
        _gain,
        _OPEN + " [Then {he}|{He}|Later {he}] {gain} {y} more. " + _NOW,
        "{A} [has|starts with] {x:n}. {He} {gain} {y} more, so {he} has {x} + {y} = {r:n}.",
    ),
    Story(
        "change",
        "loss",
        _loss,
        _OPEN + " [Then {he}|{He}|Later {he}] {loss_y}. " + _LEFT,
        "{A} [has|starts with] {x:n}. {He} {loss_y}, so {he} has {x} - {y} = {r:n} left.",
    ),
    Story(
        "change",
        "gain_loss",
        _gain_loss,
        _OPEN + " {He} {gain} {y} more. [Then {he}|Later {he}] {loss_z}. " + _NOW,
        "{A} {gain} {y} more, so {he} has {x} + {y} = {s:n}. "
        "Then {he} {loss_z}, so {he} has {s} - {z} = {r:n}.",
    ),
    Story(
        "change",
        "loss_gain",
        _loss_gain,
        _OPEN + " {He} {loss_y}. [Then {he}|Later {he}] {gain} {z} more. " + _NOW,
        "{A} {loss_y}, so {he} has {x} - {y} = {s:n}. "
        "Then {he} {gain} {z} more, so {he} has {s} + {z} = {r:n}.",
    ),
    Story(
        "change",
        "unknown_start",
        _loss,
        "{A} has some {n}.{aside} {He} {gain} {y} more, and now {he} has {x}. "
        "How many {n} did {A} have at [first|the start]?",
        "{A} has {x:n} after {he} {gain} {y} more. [So at first {he} had|At first {he} had] "
        "{x} - {y} = {r:n}.",
    ),
    Story(
        "groups",
        "times",
        _product,
        "{A} [has|fills|packs] {x:c}.{aside} [There are {y:n} in each {c1}|Each {c1} holds {y:n}]. "
        "How many {n} [are there in all|does {A} have|are in the {c}]?",
        "{A} [has|fills] {x:c} with {y:n} in each. [That makes|In all there are] {x} x {y} = {r:n}.",
    ),
    Story(
        "groups",
        "share",
        _quotient,
        "{A} [has|buys|brings] {x:n}.{aside} {He} [shares them equally among|splits them equally "
        "between] {y} friends. How many {n} does each friend get?",
        "{A} shares {x:n} among {y} friends. [Each friend gets|So each one gets] "
        "{x} / {y} = {r:n}.",
    ),
    Story(
        "groups",
        "pack",
        _quotient,
        "{A} [has|packs] {x:n}.{aside} {He} puts {y} in each {c1}. How many {c} does {he} "
        "[need|fill]?",
        "{A} puts {x:n} into {c}, {y} in each. {He} needs {x} / {y} = {r:c}.",
    ),
    Story(
        "groups",
        "times_plus",
        _product_plus,
        "{A} has {x:c} with {y:n} in each.{aside} [{He} also has {z} more|There are also {z} more "
        "on the table]. How many {n} [are there in all|does {A} have in all]?",
        "The {c} hold {x} x {y} = {s:n}. With {z} more, [there are|{A} has] {s} + {z} = {r:n}.",
    ),
    Story(
        "groups",
        "times_minus",
        _product_minus,
        "{A} [has|buys] {x:c} with {y:n} in each.{aside} [Then {he}|{He}] {loss_z}. " + _LEFT,
        "The {c} hold {x} x {y} = {s:n}. {He} {loss_z}, so {he} has {s} - {z} = {r:n} left.",
    ),
    Story(
        "compare",
        "more",
        _gain,
        "{A} has {x:n}.{aside} {B} has {y} more {n} than {A}. How many {n} does {B} have?",
        "{A} has {x:n}. {B} has {y} more, so {B} has {x} + {y} = {r:n}.",
    ),
    Story(
        "compare",
        "fewer",
        _loss,
        "{A} has {x:n}.{aside} {B} has {y} fewer {n} than {A}. How many {n} does {B} have?",
        "{A} has {x:n}. {B} has {y} fewer, so {B} has {x} - {y} = {r:n}.",
    ),
    Story(
        "compare",
        "difference",
        _loss,
        "[{A} has {x:n} and {B} has {y}|{A} has {x:n}. {B} has {y:n}].{aside} How many "
        "[more {n} does {A} have than {B}|fewer {n} does {B} have than {A}]?",
        "{A} has {x:n} and {B} has {y}. The difference is {x} - {y} = {r:n}.",
    ),
    Story(
        "compare",
        "more_total",
        _more_total,
        "{A} has {x:n}.{aside} {B} has {y} more {n} than {A}. " + _BOTH,
        "{B} has {x} + {y} = {s:n}. [Together they have|In all they have] {x} + {s} = {r:n}.",
    ),
    Story(
        "compare",
        "fewer_total",
        _fewer_total,
        "{A} has {x:n}.{aside} {B} has {y} fewer {n} than {A}. " + _BOTH,
        "{B} has {x} - {y} = {s:n}. [Together they have|In all they have] {x} + {s} = {r:n}.",
    ),
    Story(
        "money",
        "price",
        _product,
        "{A} [buys|orders|wants] {x:w}.{aside} " + _EACH + ". How [much does {A} pay|much do they "
        "cost in all]?",
        "{A} [buys|pays for] {x:w} at {y:d} each. [They cost|The price is] {x} x {y} = {r:d}.",
    ),
    Story(
        "money",
        "note_change",
        _note_change,
        "{A} buys a {w1} that "
        + _COST
        + " ${x}.{aside} {He} pays with a ${z} bill. How much change "
        "does {he} get?",
        "{A} pays {z:d} for a {w1} that costs {x:d}. {He} gets {z} - {x} = {r:d} back.",
    ),
    Story(
        "money",
        "product_change",
        _product_change,
        "{A} buys {x:w}.{aside} " + _EACH + ". {He} pays with ${z}. How much [change does {he} get|"
        "money does {he} get back]?",
        "The {w} cost {x} x {y} = {s:d}. {A} pays {z:d} and gets {z} - {s} = {r:d} back.",
    ),
    Story(
        "money",
        "two_wares",
        _product_plus,
        "{A} buys {x:w} at ${y} each.{aside} {He} also buys a {v1} for ${z}. How much does {he} "
        "[spend|pay] in all?",
        "The {w} cost {x} x {y} = {s:d}. With the {v1}, {A} pays {s} + {z} = {r:d}.",
    ),
    Story(
        "money",
        "saving",
        _product_plus,
        "{A} has ${z}.{aside} {He} [saves|earns] ${y} [a|every] week for {x} weeks. How much money "
        "does {he} have then?",
        "In {x} weeks {A} gets {x} x {y} = {s:d}. With the first {z:d}, {he} has "
        "{s} + {z} = {r:d}.",
    ),
)

SKILLS: Final = ("change", "groups", "compare", "money")
