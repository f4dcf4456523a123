"""The fusion algorithm written naively: no caches, no windows, no caps, everything encoded anew.

It imports nothing from the package. ``Voice`` is what it knows of a source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Voice:
    prompt: tuple[int, ...]
    encode: Callable[[str], tuple[int, ...]]  # text in the middle of a text -> ids
    decode: Callable[[Sequence[int]], str | None]  # ids -> text, None while a character is open
    log_probs: Callable[[tuple[int, ...]], np.ndarray]  # ids -> (vocabulary,) of what follows
    ends: frozenset[int]

    def log_likelihood(self, text: str) -> float:
        ids = self.prompt + self.encode(text)
        return sum(
            self.log_probs(ids[:i])[ids[i]] for i in reversed(range(len(self.prompt), len(ids)))
        )

    def log_end(self, text: str) -> float:
        return float(
            np.logaddexp.reduce(self.log_probs(self.prompt + self.encode(text))[list(self.ends)])
        )


def draft(
    voice: Voice, voices: list[Voice], text: str, cuts: Callable[[str], list[int]]
) -> tuple[str, bool]:
    tokens: tuple[int, ...] = ()
    while len(tokens) < 64:
        token = int(voice.log_probs(voice.prompt + voice.encode(text) + tokens).argmax())
        so_far = voice.decode(tokens)
        if token in voice.ends:
            return so_far or "", True
        tokens += (token,)
        written = voice.decode(tokens)
        for cut in cuts(written) if written else []:
            left, right = text + written[:cut], written[cut:]
            if all(v.encode(left) + v.encode(right) == v.encode(left + right) for v in voices):
                return written[:cut], False
    raise LookupError(f"no cut in {written!r}; caps are not part of the algorithm")


def num_new(voice: Voice, text: str, segment: str) -> int:
    old, new = voice.encode(text), voice.encode(text + segment)
    shared = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
        min(len(old), len(new)),
    )
    return len(new) - shared


def fuse(
    voices: list[Voice], cuts: Callable[[str], list[int]], *, paper: bool, num_steps: int
) -> list[tuple[str, list[float]]]:
    """(segment, costs of the candidates, if any were compared) for each step, until the end."""
    text, steps = "", []
    for _ in range(num_steps):
        drafts = list(dict.fromkeys(draft(voice, voices, text, cuts) for voice in voices))
        if not paper:
            wants_end = ("", True) in drafts
            drafts = list(dict.fromkeys((segment, False) for segment, _ in drafts if segment))
            log_end = np.array([voice.log_end(text) for voice in voices])
            if not drafts or (wants_end and log_end.mean() > np.log(-np.expm1(log_end)).mean()):
                return [*steps, ("", [])]
        costs = []
        for segment, ends in drafts if len(drafts) > 1 else []:
            nll = [
                (
                    voice.log_likelihood(text)
                    - voice.log_likelihood(text + segment)
                    - ends * voice.log_end(text + segment)
                )
                / max(1, num_new(voice, text, segment) + ends)
                for voice in voices
            ]
            costs.append(float(np.mean(np.exp(nll) if paper else nll)))
        segment, ends = drafts[int(np.argmin(costs))] if costs else drafts[0]
        text += segment
        steps.append((segment, costs))
        if ends:
            break
    return steps
