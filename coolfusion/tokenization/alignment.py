"""Which proposed cuts every tokenizer can live with.

A proposed cut is ratified when, for every tokenizer, encoding the text on its two sides
apart gives the ids of encoding it whole: then committing the left side never forces a
source to condition on tokens it would not have written. White space alone does not make a
cut safe: a full stop and the line break after it can be one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.boundaries import Boundary
from coolfusion.tokenization.canonical import splits

CONTEXT = 64  # characters on the left that can bear on how a cut is encoded
LOOK_AHEAD = 32  # characters on the right


def is_ratified(text: str, cut: int, tokenizers: Sequence[Tokenizer]) -> bool:
    """Whether every tokenizer encodes ``text`` the same when it is split at ``cut``."""
    left = text[max(0, cut - CONTEXT) : cut]
    right = text[cut : cut + LOOK_AHEAD]
    return all(splits(left, right, tokenizer) for tokenizer in tokenizers)


def ratified_cuts(
    text: str, boundary: Boundary, tokenizers: Sequence[Tokenizer], context: str = ""
) -> Iterator[int]:
    """The cuts of ``text`` that ``boundary`` proposes and every tokenizer ratifies, in order.

    ``context`` is what stands before ``text``. Positions count characters of ``text``. Cuts
    are tried as they are asked for, so the first costs nothing for the later ones.
    """
    recent = context[-CONTEXT:]
    for cut in boundary.propose(text):
        if is_ratified(recent + text, len(recent) + cut, tokenizers):
            yield cut
