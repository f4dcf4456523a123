"""The laws of boundaries: cuts keep numbers, characters and words with their spaces whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import regex

from coolfusion.testing.conformance import HOSTILE_TEXTS, require
from coolfusion.tokenization.boundaries import Boundary


def check_boundary(boundary: Boundary, texts: Sequence[str] | None = None) -> None:
    """Raise ``ConformanceError`` if ``boundary`` breaks a law on any of ``texts``."""
    for text in HOSTILE_TEXTS if texts is None else texts:
        cuts = list(boundary.propose(text))
        again = list(boundary.propose(text))
        require(cuts == again, "a boundary is deterministic", cuts, again, text)
        ascending = all(left < right for left, right in pairwise(cuts))
        require(ascending, "cuts ascend", sorted(set(cuts)), cuts, text)
        inside = all(0 < cut < len(text) for cut in cuts)
        require(inside, "cuts lie strictly inside", f"1 to {len(text) - 1}", cuts, text)
        edges = {match.start() for match in regex.finditer(r"\X", text)}
        for cut in cuts:
            left, right = text[cut - 1], text[cut]
            split = cut in edges
            require(split, "no cut inside a grapheme cluster", "an edge", cut, text)
            number = left.isdigit() and right.isdigit()
            require(not number, "no cut inside a number", "no digits on both sides", cut, text)
            law = "white space stays with the word after it"
            require(not left.isspace(), law, "no white space before a cut", cut, text)
        segments = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        require("".join(segments) == text, "segments join to the text", text, segments, text)
        solid = not cuts or not any(segment.isspace() for segment in segments)
        require(solid, "every segment holds a word", "no blank segment", segments, text)
