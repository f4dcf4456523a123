"""A plot of a search in plain SVG: a dot for every particle, a line for the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from coolfusion.documents import visible
from coolfusion.swarm.result import Iteration

LARGEST = 1e300
SMALLEST = 1e-200  # a range below is as good as none
WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44


def plot(iterations: Sequence[Iteration], best_expert: float, title: str) -> str:
    """An SVG document: utility over iterations, with the best expert's as a dashed line.

    Particles that do not work (minus infinity) are left out. Other numbers beyond ``LARGEST`` are
    drawn as that.
    """
    utilities = [[_drawn(u) for u in each.utilities if _works(u)] for each in iterations]
    best_expert = _drawn(best_expert)
    shown = [best_expert, *(u for each in utilities for u in each)]
    low, high = _widened(min(shown), max(shown))
    across, along = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(iteration: float) -> float:
        return LEFT + across * (iteration + 0.5) / len(iterations)

    def y(utility: float) -> float:
        return TOP + along * (high - utility) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-weight="bold">{_escaped(title)}</text>',
    ]
    for tick in _ticks(low, high):
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "#ddd"))
        parts.append(_text(LEFT - 6, y(tick) + 4, f"{tick:.4g}", "end"))
    every = max(1, math.ceil(len(iterations) / 12))
    for number in range(0, len(iterations), every):
        parts.append(_text(x(number), HEIGHT - BOTTOM + 18, str(number), "middle"))
    parts.append(_text(LEFT + across / 2, HEIGHT - 8, "iteration", "middle"))
    for number, each in enumerate(utilities):
        parts += [
            f'<circle cx="{x(number):.1f}" cy="{y(u):.1f}" r="2.5" fill="#58a" fill-opacity="0.45"/>'
            for u in each
        ]
    parts.append(_line(LEFT, y(best_expert), WIDTH - RIGHT, y(best_expert), "#a52", dashed=True))
    parts.append(_text(WIDTH - RIGHT - 4, y(best_expert) - 5, "best expert", "end", "#a52"))
    best = [
        (number, _drawn(each.best)) for number, each in enumerate(iterations) if _works(each.best)
    ]
    reached = " ".join(f"{x(number):.1f},{y(utility):.1f}" for number, utility in best)
    parts.append(f'<polyline points="{reached}" fill="none" stroke="#152" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>", ""])


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range with a margin on both sides, even if all values are equal."""
    least = 1e-9 * max(abs(low), abs(high)) if high > low else 0
    margin = max(0.06 * (high - low), least)
    margin = margin if margin > SMALLEST else 0
    margin = margin or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _works(utility: float) -> bool:
    return utility > -math.inf  # and is no NaN


def _drawn(utility: float) -> float:
    """A number whose sums and differences are finite."""
    return max(-LARGEST, min(utility, LARGEST))


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two others."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _escaped(text: str) -> str:
    """``text`` in XML, which holds no control characters, however they are written."""
    return escape(visible(text), quote=True)
