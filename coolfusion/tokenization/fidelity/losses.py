"""What a tokenizer does not give back of a text, tried in context and named by comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import tokenizers

from coolfusion.tokenization.fidelity.code_points import (
    OPEN,
    RARE,
    assigned,
    kind_of,
    rare_characters,
    sample_characters,
    shown,
    special_spaces,
)
from coolfusion.tokenization.fidelity.differences import differences, same
from coolfusion.tokenization.token_bytes import TokenBytes

Trip = Callable[[str], str]  # a text to ids and back

_USED_BYTES = frozenset(range(0xF5)) - {0xC0, 0xC1}  # by UTF-8
_CHUNK = 48  # strings that are tried in one text; those of a text that fails are tried alone
_SUSPECTS = (
    12  # characters of a kind that are tried because the vocabulary or normaliser names them
)
ORDINARY_TEXTS = (
    *("one  two   three", "one\ntwo\n\n\tthree\r\n    four\r", " one", "one ", "One TWO", "x"),
    "\ttab", "line\n", "\n\nlines\n\n", "   indented   ", "a \n b \t c\r\n\r\nd",
    "It's (almost) \"done\", isn't it? 1,234.50 [x] {y} <z> a_b #c @d &e *f ~g `h` ^ \\ / |",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m cafe\u0301 a\u0302\u0301 \u1e9b\u0323",
    "\u65e5\u672c\u8a9e \u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627",
    "10\u00a0000 \uff21\uff11\u3000\ufb01 \u00bd \u2460 \u33a5 \uff76\uff9e \u2026 \u2122",
    "ok \U0001f44d\U0001f3fd \U0001f469\u200d\U0001f680 \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "\u201cquoted\u201d \u2018so\u2019 \u2014 \u2013 \u00ab\u00bb ''`` -- ... <0x41> <unk> </s>",
    "word" * 80 + " " + "7" * 80 + " " + "=" * 80 + " " * 80 + "\u65e5" * 80,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loss:
    """One kind of text that does not survive.

    ``characters`` are those of the kind that were found to be lost. ``text`` became ``got``.
    ``ordinary``: texts that people write hold it.
    """

    what: str
    characters: str
    text: str
    got: str

    @property
    def ordinary(self) -> bool:
        """Whether texts that people write hold it; the others are rare code points."""
        return self.what not in RARE

    def __str__(self) -> str:
        example = f"{self.text!r} became {self.got!r}"
        if self.ordinary:
            return f"{self.what} ({example})"
        some = "such as " if self.what in OPEN else ""  # too many to try them all
        return f"{self.what} ({some}{shown(self.characters)}: {example})"


def altered(strings: Sequence[str], trip: Trip, contexts: Callable[[str], str]) -> list[str]:
    """Those of ``strings`` that do not survive in their ``contexts``."""
    lost = []
    for start in range(0, len(strings), _CHUNK):
        chunk = strings[start : start + _CHUNK]
        whole = "".join(map(contexts, chunk))
        if not same(whole, trip(whole)):
            lost += [each for each in chunk if not _survives(each, trip, contexts)]
    return lost


def _survives(string: str, trip: Trip, contexts: Callable[[str], str]) -> bool:
    text = contexts(string)
    return same(text, trip(text))


def inside(string: str) -> str:
    """A text with ``string`` between letters, spaces and line breaks, doubled and in a word."""
    return f"a{string}b {string} c \n{string}\n{string}{string}1{string} {string}d. "


def beside(string: str) -> str:
    """A short text for characters of which there are many."""
    return f"a{string} {string}b"


def at_the_edges(strings: Iterable[str], trip: Trip) -> list[str]:
    """Those of ``strings`` that do not survive alone, or first or last in a text."""
    return [
        each
        for each in strings
        if not all(same(text, trip(text)) for text in (each, f"{each}b", f"a{each}", f" {each} "))
    ]


def find_losses(
    trip: Trip, added: Sequence[str] = (), suspects: Iterable[str] = ()
) -> tuple[Loss, ...]:
    """Every kind of text that ``trip`` alters, ordinary texts first.

    ``added`` are names of added tokens. ``suspects`` are characters to try beside the samples.
    """
    tried = [(text, trip(text)) for text in ORDINARY_TEXTS]
    characters = dict.fromkeys((*sample_characters(), *suspects))
    for strings, contexts in (
        (list(characters), beside),
        (list(rare_characters()), inside),
        (added, inside),
    ):
        tried += [(text, trip(text)) for text in map(contexts, altered(strings, trip, contexts))]
    for edge in at_the_edges((*rare_characters(), *special_spaces(), *added[:_CHUNK]), trip):
        tried += [(text, trip(text)) for text in (edge, f"{edge}b", f"a{edge}", f" {edge} ")]
    return _named(tried)


def _named(tried: Iterable[tuple[str, str]]) -> tuple[Loss, ...]:
    """A loss for each kind of difference, with the shortest text that shows it."""
    characters: dict[str, set[str]] = {}
    examples: dict[str, tuple[str, str]] = {}
    for text, got in tried:
        if same(text, got):
            continue
        for kind, chars in differences(text, got):
            characters.setdefault(kind, set()).update(chars)
            if kind not in examples or len(text) < len(examples[kind][0]):
                examples[kind] = (text, got)
    losses = [Loss(kind, "".join(sorted(characters[kind])), *examples[kind]) for kind in examples]
    return tuple(sorted(losses, key=lambda loss: not loss.ordinary))


def suspicious(
    tokenizer: tokenizers.Tokenizer, pieces: TokenBytes, vocabulary: Mapping[str, int]
) -> Iterator[str]:
    """Characters that the parts of a tokenizer give reason to doubt, some of each kind."""
    if tokenizer.normalizer is not None:
        yield from of_each_kind(normalized_away(tokenizer.normalizer.normalize_str))
    yield from (
        name
        for name, i in vocabulary.items()
        if len(name) == 1 and pieces.piece(i) != name.encode()
    )
    missing = _USED_BYTES - pieces.of_single_bytes().keys()
    if missing:
        every = assigned()
        chunks = (every[start : start + 512] for start in range(0, len(every), 512))
        yield from of_each_kind(
            char
            for chunk in chunks
            if not missing.isdisjoint(chunk.encode())
            for char in chunk
            if not missing.isdisjoint(char.encode()) and char not in vocabulary
        )


def of_each_kind(characters: Iterable[str]) -> list[str]:
    """At most a dozen characters of each kind."""
    found: dict[str, list[str]] = {}
    for char in characters:
        of_kind = found.setdefault(kind_of(char), [])
        if len(of_kind) < _SUSPECTS:
            of_kind.append(char)
    return [char for chars in found.values() for char in chars]


def normalized_away(normalize: Callable[[str], str]) -> Iterator[str]:
    """Every character that ``normalize`` alters between two letters."""
    around = normalize("aa")
    every = assigned()

    def kept(text: str) -> bool:
        return same(around[:-1] + text + around[-1:], normalize(f"a{text}a"))

    for start in range(0, len(every), 512):
        chunk = every[start : start + 512]
        if not kept(chunk):
            yield from (char for char in chunk if not kept(char))
