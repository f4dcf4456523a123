"""The laws of ``coolfusion.tokenization.base.Tokenizer``, on texts that break naive code."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence

from coolfusion.testing.conformance import HOSTILE_TEXTS, require
from coolfusion.tokenization.base import Tokenizer, pieces_text
from coolfusion.tokenization.canonical import Canonical, extend


def check_tokenizer(tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> None:
    """Raise ``ConformanceError`` if ``tokenizer`` breaks a law on any of ``texts``."""
    chosen = list(HOSTILE_TEXTS if texts is None else texts)
    first = [tuple(tokenizer.encode(text)) for text in chosen]
    for text, ids in zip(chosen, first, strict=True):
        got = unicodedata.normalize("NFC", pieces_text(tokenizer, ids))
        want = unicodedata.normalize("NFC", text)
        require(got == want, "pieces join to the text", want, got, text)
        ends = sorted(tokenizer.end_ids.intersection(ids))
        require(not ends, "no text encodes to an end id", [], ends, text)
    for text, ids in reversed(list(zip(chosen, first, strict=True))):
        again = tuple(tokenizer.encode("".join(list(text))))
        require(again == ids, "equal texts give equal ids", ids, again, text)
    for text in [*chosen, " ".join(chosen)]:
        _check_extension(tokenizer, text)
        _check_settled(tokenizer, text, chosen)


def _check_extension(tokenizer: Tokenizer, text: str) -> None:
    """Ids extended piece by piece equal those of the whole text, however it is cut."""
    noise = random.Random(len(text))
    canonical, position = Canonical(), 0
    while position < len(text):
        step = noise.randint(1, 24)
        canonical = extend(canonical, text[position : position + step], tokenizer)
        position += step
        whole = tuple(tokenizer.encode(text[:position]))
        law = "incremental encoding equals encoding the whole"
        require(canonical.ids == whole, law, whole, canonical.ids, text[:position])


def _check_settled(tokenizer: Tokenizer, text: str, texts: Sequence[str]) -> None:
    """What is settled stays settled, whatever follows."""
    settled = getattr(tokenizer, "settled", None)
    ids = tuple(tokenizer.encode(text))
    for each in settled("", text) if settled else ():
        after, skipped = each.lead + text[each.position :], each.num_skipped
        rest = tuple(tokenizer.encode(after)[skipped:])
        num_kept = len(ids) - len(rest)
        for more in texts if ids[max(0, num_kept) :] == rest else ():
            want = tuple(tokenizer.encode(text + more))
            got = ids[:num_kept] + tuple(tokenizer.encode(after + more)[skipped:])
            require(got == want, "no later text changes what is settled", want, got, text + more)
