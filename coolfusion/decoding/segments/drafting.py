"""Drafting: a source writes on alone until its text has a cut where it may be handed over."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import regex

from coolfusion.backends.base import Scores
from coolfusion.decoding.scheduler import ask
from coolfusion.decoding.source_view import SourceView
from coolfusion.tokenization.canonical import Canonical
from coolfusion.types import NO_ROOM, NO_TEXT, Usage

IncrementalDecoder = codecs.getincrementaldecoder("utf-8")


def _no_room(_text: str) -> int:
    """What is left of sources that there are none of."""
    return -1


@dataclass(frozen=True, slots=True)
class Draft:
    """What a source offers: a segment, or the reason why it offers none.

    ``ends`` says the source would stop after ``text``, which may then be empty. ``log_end``
    is its log-probability (nats) of ending before any of it.
    """

    text: str
    ends: bool
    log_end: float
    withdrawn: str | None
    usage: Usage


@dataclass(slots=True)
class PartialDraft:
    """A draft being written: the tokens after ``prefix`` so far, and their complete characters.

    ``before`` has every source's encoding of the text before it. ``room`` is how many tokens the
    response may still take and ``max_tokens`` how many the segment may (None: no cap). Both count
    this source's tokens. ``others_room`` says how many the response may take of another source,
    after this text: of the one that has most left (-1: none has any). Room may be negative.
    """

    view: SourceView
    prefix: tuple[int, ...]
    before: Sequence[Canonical]
    room: int
    max_tokens: int | None = None
    others_room: Callable[[str], int] = _no_room
    ids: list[int] = field(default_factory=list)
    text: str = ""
    decoder: codecs.IncrementalDecoder = field(default_factory=IncrementalDecoder)
    usage: Usage = field(default_factory=Usage)
    log_end: float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the context window has no room for another token."""
        return self.view.is_full(len(self.prefix) + len(self.ids))

    @property
    def is_over(self) -> bool:
        """Whether the response ends here for its limit, whatever would follow.

        A character that has begun is finished first. The source with most room decides. Where
        that is another one, its last token may be longer than what this one has written. So the
        draft goes on until it leaps over.
        """
        left, (open_bytes, _) = self.room - len(self.ids), self.decoder.getstate()
        if left > 0 or open_bytes:
            return False
        others = self.others_room(self.text)
        return others < 0 or left == others == 0


# Where a draft may be cut, once its text has grown: a position, or None to go on.
Cut = Callable[[PartialDraft], int | None]


async def draft(
    view: SourceView,
    cut: Cut,
    *,
    room: int,
    max_tokens: int | None = None,
    before: Sequence[Canonical] = (),
    others_room: Callable[[str], int] = _no_room,
) -> Draft:
    """One draft by the source of ``view``, handed over where ``cut`` says.

    The keywords are those of ``PartialDraft``. Raises ``ContextLengthError`` when the prefix
    leaves no room for even one token.
    """
    partial = PartialDraft(view, view.prefix, before, room, max_tokens, others_room)
    view.check_room(len(partial.prefix))
    while True:
        (scores,) = await ask([view.draft_request(partial.prefix + tuple(partial.ids))])
        done = _write(partial, scores, cut)
        if done is not None:
            return done


def _write(partial: PartialDraft, scores: Scores, cut: Cut) -> Draft | None:
    """Add the drafted tokens until one closes the draft; None while it should go on."""
    if not partial.ids:
        partial.log_end = scores.watched[0]
    done, num_drafted = None, 0
    while done is None and num_drafted < len(scores.picks):
        done = _write_token(partial, scores.picks[num_drafted], cut)
        num_drafted += 1
    partial.usage += Usage(num_drafted, 0, scores.num_forwarded, scores.num_passes)
    return None if done is None else replace(done, usage=partial.usage)


def _write_token(partial: PartialDraft, token: int, cut: Cut) -> Draft | None:
    tokenizer = partial.view.source.tokenizer
    if token in tokenizer.end_ids:
        return _finish(partial, partial.text, ends=True)
    piece = tokenizer.piece(token)
    if piece is None:
        return _finish(partial, partial.text, reason=f"it drew the control token {token}")
    partial.ids.append(token)
    try:
        fresh = partial.decoder.decode(piece)
    except UnicodeDecodeError:
        return _finish(partial, partial.text, reason=NO_TEXT)
    if fresh:
        partial.text += fresh
        position = cut(partial)
        if position is not None:
            return _finish(partial, partial.text[:position])
    if partial.is_full or partial.is_over:
        return _finish(partial, partial.text, reason=NO_ROOM)
    if partial.max_tokens is not None and len(partial.ids) >= partial.max_tokens:
        return _finish(
            partial,
            _forced(partial.text),
            reason=f"{len(partial.ids)} tokens held no complete character",
        )
    return None


def _finish(
    partial: PartialDraft, text: str, *, ends: bool = False, reason: str | None = None
) -> Draft:
    """Close a draft; ``reason`` counts only if there is no text to offer."""
    withdrawn = None if text or ends else reason
    return Draft(text, ends, partial.log_end, withdrawn, partial.usage)


def _forced(text: str) -> str:
    """Cut a text that has no boundary: before its last cluster or number, if anything is left."""
    whole: str = regex.sub(r"\X\Z", "", text) or text
    kept: str = regex.sub(r"(?<=\D)\d+\Z", "", whole)
    return kept
