"""Ratified cuts: places where every tokenizer has a token boundary.

A proposed cut is ratified if every tokenizer gives the same ids for the two sides encoded apart
and for the whole. Then no source has to continue from tokens that it would not have produced.
White space alone does not make a cut safe: a full stop and the line break after it can be one
token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.boundaries import Boundary
from coolfusion.tokenization.canonical import splits

CONTEXT = 64  # characters on the left that can affect the encoding at a cut
LOOK_AHEAD = 32  # characters on the right that can


def is_ratified(text: str, cut: int, tokenizers: Sequence[Tokenizer]) -> bool:
    """Whether every tokenizer encodes ``text`` the same when it is split at ``cut``."""
    left = text[max(0, cut - CONTEXT) : cut]
    right = text[cut : cut + LOOK_AHEAD]
    return all(splits(left, right, tokenizer) for tokenizer in tokenizers)


def ratified_cuts(
    text: str, boundary: Boundary, tokenizers: Sequence[Tokenizer], context: str = ""
) -> Iterator[int]:
    """The cuts of ``text`` that ``boundary`` proposes and every tokenizer ratifies, in order.

    ``context`` is the text before. Positions count characters of ``text``. Each cut is tried when
    the caller asks for it, so the first one costs nothing for the later ones.
    """
    recent = context[-CONTEXT:]
    for cut in boundary.propose(text):
        if is_ratified(recent + text, len(recent) + cut, tokenizers):
            yield cut
