"""What is shown of a response: in its winners' colours, explained, summed up, or as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from coolfusion.cli.process import harmless, put, raw
from coolfusion.types import Candidate, Generation, Step

COLOURS = (36, 33, 35, 32, 34, 31)  # cyan, yellow, magenta, green, blue, red


class Painter:
    """Colours text by source where the stream is a terminal that wants it."""

    def __init__(self, sources: Sequence[str], stream: IO[str], *, allowed: bool = True) -> None:
        self._stream = stream
        wanted = allowed and stream.isatty() and not os.environ.get("NO_COLOR")
        self._colours = (
            {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(sources)} if wanted else {}
        )

    @property
    def paints(self) -> bool:
        """Whether anything is coloured at all."""
        return bool(self._colours)

    def by_drafters(self, text: str, drafters: Sequence[str]) -> str:
        """``text`` in the colour of its only drafter; what several wrote stays plain."""
        if len(drafters) != 1 or drafters[0] not in self._colours or not text:
            return self.plain(text)
        return f"\x1b[{self._colours[drafters[0]]}m{self.plain(text)}\x1b[0m"

    def plain(self, text: str) -> str:
        """``text`` as it may stand among colours, where nothing else looks at it any more."""
        return harmless(text) if self.paints else text

    def write(self, text: str) -> None:
        """Write what was painted, at once. Colours pass a terminal's guard, as they are our own."""
        put(text, raw(self._stream) if self.paints else self._stream)

    def say(self, text: str) -> None:
        """Say what was painted."""
        say(text, raw(self._stream) if self.paints else self._stream)

    def legend(self, sources: Sequence[str]) -> str:
        """The sources, each in its colour."""
        return (
            "sources: "
            + " ".join(self.by_drafters(name, [name]) for name in sources)
            + "; plain: several agree"
        )


def explain(step: Step, painter: Painter) -> str:
    """A line for a step: what was committed, who wrote it, and what it was preferred to."""
    shown = repr(step.segment) if step.segment else "(end)" if step.ends else "(nothing)"
    if len(step.drafters) == len(step.sources) > 1:
        who = "all agree"
    else:
        who = ", ".join(painter.by_drafters(name, [name]) for name in step.drafters)
    lines = [f"{step.index:>4}  {shown:<24} {who}"]
    if step.contested:
        lines += [
            f"      {'>' if index == step.winner else ' '} {_candidate(candidate, painter)}"
            for index, candidate in enumerate(step.candidates)
        ]
    lines += [
        f"        {painter.plain(gone.source)} had no candidate: {painter.plain(gone.reason)}"
        for gone in step.withdrawn
    ]
    lines += [
        f"        {painter.plain(gone.source)} was dropped: {painter.plain(gone.reason)}"
        for gone in step.dropped
    ]
    lines += [
        f"        {painter.plain(each.source)} gave a zero: {painter.plain(each.reason)}"
        for each in step.zeros
    ]
    return "\n".join(lines)


def _candidate(candidate: Candidate, painter: Painter) -> str:
    text = repr(candidate.text) + (" and end" if candidate.ends else "")
    names = ", ".join(painter.by_drafters(name, [name]) for name in candidate.drafters)
    cost = "not scored" if candidate.cost is None else f"cost {candidate.cost:.3f}"
    return f"{text:<22} {cost}  by {names}"


def summary(generation: Generation) -> str:
    """One line: why it stopped, how many steps were contested, who won how often, what it cost."""
    stats = generation.stats
    wins = ", ".join(f"{name} {count}" for name, count in stats.wins.items())
    tokens = sum(spent.num_forwarded for spent in stats.usage.values())
    return (
        f"{_ending(generation)} {stats.num_steps} steps, {stats.num_contested} contested; "
        f"won by {wins}; {tokens} tokens computed in {stats.seconds:.1f} s."
    )


def _ending(generation: Generation) -> str:
    """Why a response is over, and whose window ended it, if that is why."""
    sentence, names = generation.stop_reason.sentence, ", ".join(generation.stop_sources)
    return f"{sentence.removesuffix('.')}, {names} being the last." if names else sentence


def result_dict(generation: Generation) -> dict[str, Any]:
    """A response as JSON-ready data, without its steps."""
    stats = generation.stats
    return {
        "text": generation.text,
        "stop_reason": generation.stop_reason.value,
        "stop_string": generation.stop_string,
        "stop_sources": list(generation.stop_sources),
        "sources": list(generation.sources),
        "wins": stats.wins,
        "num_steps": stats.num_steps,
        "num_contested": stats.num_contested,
        "tokens_forwarded": {name: spent.num_forwarded for name, spent in stats.usage.items()},
        "forward_passes": {name: spent.num_passes for name, spent in stats.usage.items()},
        "seconds": round(stats.seconds, 4),
        "warnings": list(generation.warnings),
    }


def say(text: str, stream: IO[str] | None = None) -> None:
    """A line for the person, beside the response; one that nobody can hear is no error."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr if stream is None else stream, flush=True)
