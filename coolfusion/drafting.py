"""Drafting: a source writes on alone until its text has a cut that all tokenizers ratify."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

import regex

from coolfusion.alignment import ratified_cuts
from coolfusion.backend import Query, Sampling, Scores
from coolfusion.boundaries import Boundary
from coolfusion.errors import ContextLengthError
from coolfusion.sources import Source
from coolfusion.tokenizer import Tokenizer
from coolfusion.types import Usage


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What a source is to continue.

    ``prefix`` holds its ids, ``context`` the recent text for ratification; ``max_tokens``
    is the segment cap and ``room`` how many tokens the response may still take (both count
    this source's tokens).
    """

    prefix: tuple[int, ...]
    context: str
    sampling: Sampling
    max_tokens: int | None
    room: int


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
class _Pen:
    """A draft being written."""

    request: DraftRequest
    ids: list[int] = field(default_factory=list)
    text: str = ""
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("strict")
    )
    usage: Usage = field(default_factory=Usage)
    log_end: float = 0.0


def draft(
    source: Source,
    requests: Sequence[DraftRequest],
    boundary: Boundary,
    tokenizers: Sequence[Tokenizer],
) -> list[Draft]:
    """One draft per request, written in lockstep so that rows share forward passes.

    Raises ``ContextLengthError`` when a prefix leaves no room for even one token.
    """
    pens = [_Pen(request) for request in requests]
    drafts: list[Draft | None] = [None] * len(pens)
    for index, pen in enumerate(pens):
        if _is_full(source, pen):
            raise ContextLengthError(
                f"The context window of {source.backend.context_length} tokens is full after "
                f"{len(requests[index].prefix)} tokens of prompt and response."
            )
    writing = list(range(len(pens)))
    while writing:
        queries = [_query(source, pens[index]) for index in writing]
        for index, scores in zip(writing, source.backend.draft(queries, 1), strict=True):
            drafts[index] = _write(source, pens[index], scores, boundary, tokenizers)
        writing = [index for index in writing if drafts[index] is None]
    return [done for done in drafts if done is not None]


def _is_full(source: Source, pen: _Pen) -> bool:
    limit = source.backend.context_length
    return limit is not None and len(pen.request.prefix) + len(pen.ids) >= limit


def _query(source: Source, pen: _Pen) -> Query:
    return Query(
        pen.request.prefix + tuple(pen.ids),
        watch=tuple(sorted(source.tokenizer.end_ids)),
        sampling=pen.request.sampling,
    )


def _write(
    source: Source, pen: _Pen, scores: Scores, boundary: Boundary, tokenizers: Sequence[Tokenizer]
) -> Draft | None:
    """Add one drafted token; the finished draft, or None while it should go on."""
    token = scores.picks[0]
    if not pen.ids:
        pen.log_end = scores.watched[0]
    pen.usage += Usage(1, 0, scores.num_forwarded, scores.num_passes)
    if token in source.tokenizer.end_ids:
        return _finish(pen, pen.text, ends=True)
    piece = source.tokenizer.piece(token)
    if piece is None:
        return _finish(pen, pen.text, reason=f"it drew the control token {token}")
    pen.ids.append(token)
    try:
        fresh = pen.decoder.decode(piece)
    except UnicodeDecodeError:
        return _finish(pen, pen.text, reason="it drew bytes that are not UTF-8")
    pen.text += fresh
    if fresh:
        cut = next(ratified_cuts(pen.text, boundary, tokenizers, pen.request.context), None)
        if cut is not None:
            return _finish(pen, pen.text[:cut])
    if len(pen.ids) >= pen.request.room or _is_full(source, pen):
        return _finish(pen, pen.text, reason="no complete character fits into what room is left")
    if pen.request.max_tokens is not None and len(pen.ids) >= pen.request.max_tokens:
        return _finish(
            pen, _forced(pen.text), reason=f"{len(pen.ids)} tokens held no complete character"
        )
    return None


def _finish(pen: _Pen, text: str, *, ends: bool = False, reason: str | None = None) -> Draft:
    """Close a draft; ``reason`` counts only if there is no text to offer."""
    withdrawn = None if text or ends else reason
    return Draft(text, ends, pen.log_end, withdrawn, pen.usage)


def _forced(text: str) -> str:
    """Cut a text that has no boundary: before its last cluster or number, if anything is left."""
    whole: str = regex.sub(r"\X\Z", "", text) or text
    kept: str = regex.sub(r"(?<=\D)\d+\Z", "", whole)
    return kept
