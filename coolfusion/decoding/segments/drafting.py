"""Drafting: a source writes on alone until its text has a cut where it may be handed over."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import regex

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.sampling import Sampling
from coolfusion.backends.source import Source
from coolfusion.decoding.scheduler import ModelRequest, Talk, ask
from coolfusion.errors import ContextLengthError
from coolfusion.types import Usage

IncrementalDecoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What a source is to continue.

    ``prefix`` holds its ids, ``context`` the recent text before the draft; ``max_tokens`` is
    the segment cap and ``room`` how many tokens the response may still take (both count this
    source's tokens). ``sequence_id`` names the response.
    """

    prefix: tuple[int, ...]
    context: str
    sampling: Sampling
    max_tokens: int | None
    room: int
    sequence_id: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What came of it: a segment, or the reason why there is none.

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
    """A draft being written: the tokens so far and their complete characters."""

    request: DraftRequest
    ids: list[int] = field(default_factory=list)
    text: str = ""
    decoder: codecs.IncrementalDecoder = field(default_factory=IncrementalDecoder)
    usage: Usage = field(default_factory=Usage)
    log_end: float = 0.0


# Where a draft may be cut, once its text has grown: a position, or None to go on.
Cut = Callable[[PartialDraft], int | None]


def draft(k: int, source: Source, request: DraftRequest, cut: Cut) -> Talk[Draft]:
    """One draft by ``source``, which is number ``k``.

    Raises ``ContextLengthError`` when the prefix leaves no room for even one token.
    """
    partial = PartialDraft(request)
    if _is_full(source, partial):
        raise ContextLengthError(
            f"The context window of {source.backend.context_length} tokens is full after "
            f"{len(request.prefix)} tokens of prompt and response."
        )
    watch = tuple(sorted(source.tokenizer.end_ids))
    while True:
        (scores,) = yield from ask([ModelRequest(k, _query(partial, watch), is_draft=True)])
        done = _write(source, partial, scores, cut)
        if done is not None:
            return done


def _is_full(source: Source, partial: PartialDraft) -> bool:
    limit = source.backend.context_length
    return limit is not None and len(partial.request.prefix) + len(partial.ids) >= limit


def _query(partial: PartialDraft, watch: tuple[int, ...]) -> Query:
    request = partial.request
    return Query(
        request.prefix + tuple(partial.ids),
        (),
        watch,
        sampling=request.sampling,
        sequence_id=request.sequence_id,
    )


def _write(source: Source, partial: PartialDraft, scores: Scores, cut: Cut) -> Draft | None:
    """Add the drafted tokens until one closes the draft; None while it should go on."""
    if not partial.ids:
        partial.log_end = scores.watched[0]
    done, num_drafted = None, 0
    while done is None and num_drafted < len(scores.picks):
        done = _write_token(source, partial, scores.picks[num_drafted], cut)
        num_drafted += 1
    partial.usage += Usage(num_drafted, 0, scores.num_forwarded, scores.num_passes)
    return None if done is None else replace(done, usage=partial.usage)


def _write_token(source: Source, partial: PartialDraft, token: int, cut: Cut) -> Draft | None:
    if token in source.tokenizer.end_ids:
        return _finish(partial, partial.text, ends=True)
    piece = source.tokenizer.piece(token)
    if piece is None:
        return _finish(partial, partial.text, reason=f"it drew the control token {token}")
    partial.ids.append(token)
    try:
        fresh = partial.decoder.decode(piece)
    except UnicodeDecodeError:
        return _finish(partial, partial.text, reason="it drew bytes that are not UTF-8")
    if fresh:
        partial.text += fresh
        position = cut(partial)
        if position is not None:
            return _finish(partial, partial.text[:position])
    if len(partial.ids) >= partial.request.room or _is_full(source, partial):
        return _finish(
            partial, partial.text, reason="no complete character fits into what room is left"
        )
    if partial.request.max_tokens is not None and len(partial.ids) >= partial.request.max_tokens:
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
