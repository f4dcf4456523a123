"""Tokenizers whose merges are given, so that a text's encoding can be followed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import regex
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
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


def _pairs(*merges: str) -> list[tuple[str, str]]:
    """Merges in the alphabet of byte-level tokenizers, each given as two pieces with a space."""
    return [tuple(merge.split(" ")) for merge in merges]


def _doubled(character: str, times: int) -> list[tuple[str, str]]:
    return [(character * 2**n, character * 2**n) for n in range(times)]


def _byte_level(
    merges: Sequence[tuple[str, str]],
    pattern: str | None = None,
    behavior: str = "isolated",
    *,
    tokens: Sequence[str] = (),
    whole_parts: bool = False,
) -> tokenizers.Tokenizer:
    """Byte pairs within the parts of a pattern, by default those of GPT-2."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges), *tokens]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    raw = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole_parts))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *([pre_tokenizers.Split(tokenizers.Regex(pattern), behavior)] if pattern else []),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    return raw


_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _digits_from_the_right() -> tokenizers.Tokenizer:
    merges = _pairs("0 0", "1 1", "00 0", "1 0", "11 1")
    return _byte_level(merges, r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\P{N}+")


def _digits_to_a_word_edge() -> tokenizers.Tokenizer:
    return _byte_level(_pairs("0 0", "00 0", "7 7"), r"\d{1,3}(?=(?:\d{3})*\b)|\D")


def _long_runs() -> tokenizers.Tokenizer:
    merges = [*_doubled("#", 6), *_doubled("\u0120", 7), *_doubled("-", 5), *_doubled("\u010a", 4)]
    return _byte_level(
        [*merges, *_pairs(". \u010a", ".\u010a \u010a")], _LETTERS + "|" + _PUNCTUATION
    )


def _long_names() -> tokenizers.Tokenizer:
    raw = _byte_level([*_doubled("\u0120", 3), *_pairs("< |", "a b")])
    names = [tokenizers.AddedToken(" " * n, normalized=False) for n in (2, 3, 16, 31)]
    names += [
        tokenizers.AddedToken("<|the name of a token, which is long|>", normalized=False),
        tokenizers.AddedToken("<|to the right|>", rstrip=True, normalized=True),
        tokenizers.AddedToken("<|to the left|>", lstrip=True, normalized=False),
    ]
    raw.add_tokens(names)
    raw.add_special_tokens(["<|end|>", "<|the name"])
    return raw


def _composed() -> tokenizers.Tokenizer:
    raw = _byte_level(_pairs("\u00c3 \u00a9", "e \u00cc", "\u0120 e", "\u0120e \u00cc"))
    raw.normalizer = normalizers.NFC()
    return raw


def _whole_parts() -> tokenizers.Tokenizer:
    """``\u0120abab`` and the like are tokens that nothing merges to."""
    tokens = ("\u0120abab", "ababab", "#" * 9, "#" * 40, "\u0120bbb")
    return _byte_level(
        [*_pairs("a b", "ab b", "b a"), *_doubled("#", 3)],
        _LETTERS + "|" + _PUNCTUATION,
        tokens=tokens,
        whole_parts=True,
    )


def _stages() -> tokenizers.Tokenizer:
    """As DeepSeek's, which cuts what others have cut, and more ways to join what is cut."""
    raw = _byte_level(_pairs("a b", "\u0120 a", ". .", "\u00e6 \u0139"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            *(
                pre_tokenizers.Split(tokenizers.Regex(pattern), behavior)
                for pattern, behavior in (
                    (r"[\r\n]", "isolated"),
                    (r"\s?\p{L}+", "isolated"),
                    (r"--", "merged_with_previous"),
                    (r"==", "merged_with_next"),
                    (r"\*\*?", "contiguous"),
                    (r"[0-9][0-9][0-9]", "isolated"),
                )
            ),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return raw


def _long_pieces() -> tokenizers.Tokenizer:
    """Unigram: pieces of many lengths, and scores whose sums would be rounded."""
    scores = {"a": -2.1, "b": -2.3, "ab": -3.3, "#": -3.7, "##": -4.9, "#" * 7: -5.3, " ": -2.7}
    scores |= {"\u3042": -4.1, "\u3042\u3042\u3042": -5.7, "cat sat on": -6.1, "c": -5.1, "t": -4.4}
    vocabulary = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    vocabulary += [(piece.replace(" ", "\u2581"), score) for piece, score in scores.items()]
    raw = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return raw


BY_HAND = {
    "digits from the right": _digits_from_the_right,
    "digits to a word edge": _digits_to_a_word_edge,
    "long runs": _long_runs,
    "long names": _long_names,
    "composed": _composed,
    "whole parts": _whole_parts,
    "stages": _stages,
    "long pieces": _long_pieces,
}


def made_by_hand(name: str) -> HuggingFaceTokenizer:
    """One of ``BY_HAND`` behind the seam."""
    return HuggingFaceTokenizer(BY_HAND[name](), end_ids=[0], lossy_ok=True)
