"""Ratified cuts: places where every tokenizer has a token boundary.

A proposed cut is ratified if every tokenizer gives the same ids for the two sides encoded apart
and for the whole. Then no source has to continue from tokens that it would not have produced.
White space alone does not make a cut safe: a full stop and the line break after it can be one
token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.boundaries import Boundary
from coolfusion.tokenization.canonical import Canonical, extend, lengthened


def is_ratified(text: str, cut: int, tokenizers: Sequence[Tokenizer]) -> bool:
    """Whether every tokenizer encodes ``text`` the same when it is split at ``cut``."""
    return all(_joins(extend(Canonical(), text[:cut], t), text[cut:], t) for t in tokenizers)


def ratified_cuts(
    text: str, boundary: Boundary, tokenizers: Sequence[Tokenizer], context: str = ""
) -> Iterator[int]:
    """The cuts of ``text`` that ``boundary`` proposes and every tokenizer ratifies, in order.

    ``context`` is the text before. Positions count characters of ``text``. Each cut is tried when
    the caller asks for it, so the first one costs nothing for the later ones.
    """
    before = [extend(Canonical(), context, tokenizer) for tokenizer in tokenizers]
    return ratified_after(before, text, boundary, tokenizers)


def ratified_after(
    before: Sequence[Canonical], text: str, boundary: Boundary, tokenizers: Sequence[Tokenizer]
) -> Iterator[int]:
    """The same after a text of which ``before`` has every tokenizer's encoding.

    What is settled of it is not encoded again, however long it is.
    """
    left = list(before)
    for last, cut in pairwise([0, *boundary.propose(text)]):
        between = text[last:cut]
        left = [
            _moved(old, between, first, each)
            for old, first, each in zip(left, before, tokenizers, strict=True)
        ]
        if all(_joins(old, text[cut:], each) for old, each in zip(left, tokenizers, strict=True)):
            yield cut


def _moved(old: Canonical, text: str, first: Canonical, tokenizer: Tokenizer) -> Canonical:
    """The encoding with more text, settled only where it would become much longer to encode."""
    is_short = len(old.tail) + len(text) <= 2 * len(first.tail)
    return (lengthened if is_short else extend)(old, text, tokenizer)


def _joins(left: Canonical, right: str, tokenizer: Tokenizer) -> bool:
    """Whether the ids of the text of ``left`` and of ``right`` join to those of the whole.

    Only as much of ``right`` is encoded as decides it. Once nothing of the left text is left in the
    tail, and the right text alone has the same tail, both go on alike.
    """
    known = left.num_settled
    if len(right) <= len(left.tail):
        whole = left.followed_by(right, tokenizer)
        return whole == left.ids[known:] + tokenizer.encode(right)
    together, apart, end = left, Canonical(), 0
    while end < len(right):
        # As much as is encoded again anyway, and twice as much each time.
        begin, end = end, max(2 * end, len(left.tail), 1)
        together = extend(together, right[begin:end], tokenizer)
        apart = extend(apart, right[begin:end], tokenizer)
        joined = left.ids[known:] + apart.ids
        settled = min(together.num_settled - known, len(left.ids) - known + apart.num_settled)
        if together.ids[known : known + settled] != joined[:settled]:
            return False
        if _same_tail(together, apart):
            return together.ids[known:] == joined
    return together.ids[known:] == left.ids[known:] + apart.ids


def _same_tail(one: Canonical, other: Canonical) -> bool:
    return (one.tail, one.lead, one.num_skipped) == (other.tail, other.lead, other.num_skipped)
