"""Tokenizers whose merges are given, so that a text's encoding can be followed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import regex

from coolfusion.tokenization.prompts import Prompt

Merge = tuple[bytes, bytes]
ALPHABET = b"abt1' "
ANYTHING = r".+"  # line breaks, which no token writes, are passed over

# Tokens that reach over a word's start, and that only a few more characters complete: `` t``
# after ``b`` is a token of its own, `` ta`` is part of ``b ta``.
ACROSS_WORDS: tuple[Merge, ...] = ((b" ", b"t"), (b" t", b"a"), (b"b", b" ta"))
# The same, ten characters long: nothing before the last of them tells.
FAR_ACROSS_WORDS: tuple[Merge, ...] = (
    *((b"1", b"1"), (b"11", b"11"), (b"1111", b"1111"), (b" ", b"11111111")),
    (b"b", b" 11111111"),
)
# Two letters that belong together, and four, in a text without words.
WITHOUT_WORDS: tuple[Merge, ...] = ((b"a", b"b"), (b"ab", b"ab"))


class MergingTokenizer:
    """Byte pairs merged in a given order, within parts that a pattern looks ahead to find."""

    end_ids = frozenset({0})

    def __init__(self, merges: Sequence[Merge], pattern: str = ANYTHING) -> None:
        self.pieces = [None, *(bytes([b]) for b in ALPHABET)]
        self.merges = [pair for pair in merges if b"" not in pair]
        self.pieces += [left + right for left, right in self.merges]
        self.pattern = regex.compile(pattern)

    def encode(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for part in self.pattern.findall(text):
            tokens = [bytes([b]) for b in part.encode()]
            for pair in self.merges:
                tokens = list(_merged(tokens, pair))
            ids += [self.pieces.index(token) for token in tokens]
        return tuple(ids)

    def piece(self, token_id: int) -> bytes | None:
        return self.pieces[token_id]

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        return self.encode(str(prompt))


def _merged(tokens: list[bytes], pair: Merge) -> Iterator[bytes]:
    index = 0
    while index < len(tokens):
        if tuple(tokens[index : index + 2]) == pair:
            yield pair[0] + pair[1]
            index += 2
        else:
            yield tokens[index]
            index += 1
