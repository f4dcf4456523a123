"""A text as its tokenizer's model sees it, as far as no later text changes that."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import tokenizers

from coolfusion.tokenization.settling.normalizing import Normalizing, spec_of
from coolfusion.tokenization.settling.patterns import NotFollowed
from coolfusion.tokenization.settling.stages import (
    Cuts,
    NameStage,
    Point,
    Stage,
    Trace,
    scan,
    stages_of,
)

Names = dict[str, tuple[bool, bool, bool]]


@dataclass(frozen=True, slots=True)
class View:
    """A text, normalised up to its last ``num_open`` characters, and what is settled of its cuts.

    ``raw`` and ``normal`` are ascending positions, in the text and in ``shown``, of the same places.
    """

    num_open: int
    shown: str
    raw: Sequence[int]
    normal: Sequence[int]
    trace: Trace

    def raw_position(self, position: int) -> int | None:
        """The last position in the text of a place in ``shown``; None inside a piece."""
        found = bisect.bisect_right(self.normal, position) - 1
        return self.raw[found] if self.normal[found] == position else None

    def whole_piece(self, position: int) -> int:
        """The last place at or before a position where a piece begins."""
        return self.normal[bisect.bisect_right(self.normal, position) - 1]

    def goes_on_like(self, other: View, size: int) -> bool:
        """Whether two texts are cut alike from ``size`` characters before their ends on.

        They are equal there, and whatever follows is the same. Positions count from the ends.
        """
        own, others = len(self.shown), len(other.shown)
        shift = own - others
        return (
            self.num_open == other.num_open
            and [cut - own for cut in self.trace.cuts if cut > own - size]
            == [cut - others for cut in other.trace.cuts if cut > others - size]
            and all(
                a == b + shift for a, b in zip(self.trace.sures, other.trace.sures, strict=True)
            )
            and all(
                mine.goes_on_like(Point(its.start + shift, its.state))
                for mine, its in zip(self.trace.points, other.trace.points, strict=True)
            )
        )


@dataclass(frozen=True, slots=True)
class _Made:
    """A stage whose cuts are made already."""

    cuts: Cuts

    def scan(self, text: str, begin: int, end: int, *, closed: bool) -> Cuts:  # noqa: ARG002
        """The cuts as they are."""
        return self.cuts


@final
class Viewing:
    """Makes the views of one tokenizer. Raises ``NotFollowed`` for one that is not understood."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.normalizing = Normalizing(tokenizer.normalizer)
        raw, normal = _names(tokenizer)
        self._raw_names = NameStage(raw) if _matter(raw) else None
        self._stages: list[Stage] = [NameStage(normal)] if _matter(normal) else []
        self._stages += stages_of(spec_of(tokenizer.pre_tokenizer))

    def view(self, text: str) -> View:
        """The view of a text after which any text may follow."""
        raw, stages = self.normalizing.pieces(text), self._stages
        if self._raw_names is None:
            shown, normal = self.normalizing.joined(text, raw)
        else:
            # Names are looked for before anything is normalised, so pieces end there.
            named = self._raw_names.scan(text, 0, raw[-1], closed=False)
            raw = sorted({*raw, *named.cuts})
            shown, normal = self.normalizing.joined(text, raw)
            place = dict(zip(raw, normal, strict=True))
            cuts = Cuts(
                tuple(place[cut] for cut in named.cuts),
                normal[bisect.bisect_right(raw, named.sure) - 1],
                Point(named.point.start - raw[-1] + normal[-1], named.point.state),
                frozenset(place[each] for each in named.whole),
            )
            stages = [_Made(cuts), *stages]
        return View(len(text) - raw[-1], shown, raw, normal, scan(stages, shown, 0, len(shown)))


def _names(tokenizer: tokenizers.Tokenizer) -> tuple[Names, Names]:
    """Added tokens that are looked for in the text itself, and in the normalised text."""
    raw: Names = {}
    normal: Names = {}
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.single_word and not token.special:
            raise NotFollowed(f"the added token {token.content!r}, which must stand alone")
        if not token.content:
            continue
        how = (token.special, token.lstrip, token.rstrip)
        if token.normalized and tokenizer.normalizer is not None:
            normal[tokenizer.normalizer.normalize_str(token.content)] = how
        else:
            (normal if token.normalized else raw)[token.content] = how
    return raw, normal


def _matter(names: Names) -> bool:
    """Whether any of the names is not passed over."""
    return any(not passed for passed, _, _ in names.values())
