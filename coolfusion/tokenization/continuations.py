"""What may follow a text, one example for everything that a tokenizer looks ahead at.

The encoding of a text need not begin that of a longer one. In Llama 3 "x  " is "x", "  ", and
"x  a" is "x", " ", " a". Tokens begin an encoding if they begin that of some continuation. How a
continuation changes the tokens before it depends on where the pre-tokenizer cuts those, and so
on its kind alone: letters, digits, spaces. Within parts that are cut alike, tokens before a
boundary do not depend on what follows it. Of each kind one example is enough that no token
joins to the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache

from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.canonical import Canonical
from coolfusion.tokenization.fidelity.code_points import assigned

# A kind: texts that a tokenizer cuts alike, each with another first byte.
Kind = tuple[str, ...]
Spans = tuple[tuple[int, int], ...]
Ids = tuple[int, ...]

_LONGER = (
    # Contractions, and groups of digits, which some patterns count from the right.
    *"s t re ve m ll d S T RE VE M LL D 's 't 're 'll 11 77 111 777 1111 1, 1.".split(),
    # White space is cut by what comes after it.
    *"  | a| A| 1| .| '| \u65e5| \n| \t|   |  a|\u3000a|\t\t|\ta|\r\n".split("|"),
    *"\n\n|\n |\na|\n1|\n.|\n\u65e5".split("|"),
    *"..|.a|. |.\n|/|//|aA|Aa|AA|a\u0301|\u65e5a|a\u65e5".split("|"),
)
# Ends of texts that pre-tokenizers cut in one way or another, depending on what follows.
_ENDS = (
    *"a A ab AB aB Ab 1 11 111 1111 1. 1, a1 1a . .. , ' '' a' a'l a'r a'L _ a_ / ./ $ +".split(),
    *"\u65e5 \u65e5a a\u65e5 \u3042 \u00e9 \u0301 \u0e01 \u0628 \u00b2 \u3002 \U0001f44d".split(),
    *"a. .a \u200d \ufeff".split(),
    *" |  |   |a |a  |1 |1  |. |.  | '| a| 1| .| \u65e5|\u65e5 |\u65e5  |\u3001 |\U0001f44d ".split(
        "|"
    ),
    *"\n|\n\n|a\n|.\n| \n|\n |\n  |\r|\r\n|\t|\t\t| \t|\t |\n\t|\x0b| \x0b|\u2028".split("|"),
    *"\u00a0|a\u00a0|\u00a0a|\u3000| \u3000| \u0301".split("|"),
)


def kinds_of(tokenizer: Tokenizer, usable: Collection[int]) -> tuple[Kind, ...]:
    """The kinds of continuations that ``tokenizer`` treats differently.

    ``usable`` are the bytes that its tokens can write; other texts are left out.
    """
    allowed = set(usable)
    texts = [text for text in examples() if allowed.issuperset(text.encode())]
    spans: Callable[[str], Spans] | None = getattr(tokenizer, "parts", None)
    if spans is None:
        return _by_category(texts)
    tried = (*_ENDS, *getattr(tokenizer, "whole_words", ()))
    ends = [(end, spans(end)) for end in tried if allowed.issuperset(end.encode())]
    limits = [(end, own[-1][1] if own else 0) for end, own in ends]
    # Some models encode a part that is a token as that token, and its beginning by merges.
    beyond = int(getattr(tokenizer, "knows_whole_parts", True))

    def cut(text: str) -> tuple[Spans, ...]:
        return tuple(_cut_at(spans(end + text), limit, beyond) for end, limit in limits)

    classes_after = getattr(tokenizer, "classes_after", None)
    class_of = classes_after([end for end, _ in limits]) if classes_after else str
    cuts: dict[Hashable, tuple[Spans, ...]] = {}
    alike: dict[tuple[Spans, ...], dict[int, str]] = {}
    for text in texts:
        known = class_of(text) if len(text) == 1 else text
        if known not in cuts:
            cuts[known] = cut(text)
        alike.setdefault(cuts[known], {}).setdefault(text.encode()[0], text)
    return tuple(tuple(each.values()) for each in alike.values())


def _by_category(texts: Iterable[str]) -> tuple[Kind, ...]:
    """Kinds for a tokenizer that does not say where it cuts a text."""
    found: dict[str, list[str]] = {}
    for text in texts:
        kind = text if text in _LONGER else unicodedata.category(text)
        found.setdefault(kind, []).append(text)
    return tuple(map(tuple, found.values()))


def beginnings(
    canonical: Canonical, tokenizer: Tokenizer, kinds: Sequence[Kind], joined: Collection[int] = ()
) -> Iterator[Ids]:
    """Ids that spell a text and begin the encoding of the text or of a continuation of it.

    ``joined`` are bytes that tokens which have begun may go on with: texts that begin otherwise
    are tried first.
    """
    yield canonical.ids  # first, as it decides most cases without another encoding
    settled = canonical.ids[: canonical.num_settled]
    size = sum(len(tokenizer.piece(i) or b"") for i in canonical.ids[canonical.num_settled :])
    for kind in kinds:
        for text in sorted(kind, key=lambda text: text.encode()[0] in joined):
            ids = canonical.followed_by(text, tokenizer)
            num = _num_spelling(ids, size, tokenizer)
            if num is not None:  # no token joined the two, so this stands for the whole kind
                yield settled + ids[:num]
                break


def _num_spelling(ids: Ids, size: int, tokenizer: Tokenizer) -> int | None:
    """How many of the first ids spell ``size`` bytes; None if a token reaches over them."""
    for num, token in enumerate(ids):
        if size <= 0:
            return num if not size else None
        size -= len(tokenizer.piece(token) or b"")
    return None if size else len(ids)


def _cut_at(spans: Spans, end: int, beyond: int) -> Spans:
    """The parts of the first ``end`` characters; with ``beyond`` 1 also whether the last goes on."""
    return tuple((low, min(high, end + beyond)) for low, high in spans if low < end)


@lru_cache
def examples() -> tuple[str, ...]:
    """Continuations of all kinds: a character of each category, script and first byte, and more."""
    found: dict[tuple[str, str, int], str] = {}
    for char in assigned():
        category, script = unicodedata.category(char), ""
        if category in ("Lo", "Mn", "Mc") and char < "\U00010000":
            script = unicodedata.name(char, "").split(" ")[0]
        found.setdefault((category, script, char.encode()[0]), char)
    return tuple(dict.fromkeys((*found.values(), *_LONGER)))
