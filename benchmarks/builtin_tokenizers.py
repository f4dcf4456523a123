"""Three families of tokenizer, each trained from text: byte-level BPE, SentencePiece-style BPE
with byte fallback, and Unigram with byte fallback. All three reproduce any text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

MARK: Final = "\u2581"
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Build = Callable[[Sequence[str], int, Sequence[str]], Tokenizer]


def byte_level_bpe(texts: Sequence[str], size: int, specials: Sequence[str]) -> Tokenizer:
    """BPE over bytes, within words split by a regular expression, every digit on its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([_special(token) for token in specials])
    return tokenizer


def sentencepiece_bpe(texts: Sequence[str], size: int, specials: Sequence[str]) -> Tokenizer:
    """BPE over a whole text with marks for spaces, one invented mark at its start, a byte for
    every unknown character; the second special is put before a text that stands alone."""
    fixed = _fixed_pieces(specials)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _marked_words("always")
    trainer = trainers.BpeTrainer(vocab_size=size - len(fixed), show_progress=False)
    learner.train_from_iterator((text.replace("\n", " ") for text in texts), trainer)
    learned = sorted(learner.get_vocab().items(), key=lambda piece: piece[1])
    merges = [tuple(merge) for merge in _merges(learner)]
    vocab = {piece: index for index, piece in enumerate(fixed + [name for name, _ in learned])}
    model = models.BPE(vocab, merges, unk_token=specials[0], fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, prepend_scheme="first", split=False)
    tokenizer.decoder = _marked_decoder(strip=True)
    tokenizer.add_special_tokens([_special(token) for token in specials])
    begin = specials[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin}:1 $B:1",
        special_tokens=[(begin, vocab[begin])],
    )
    return tokenizer


def unigram(texts: Sequence[str], size: int, specials: Sequence[str]) -> Tokenizer:
    """The likeliest pieces of words marked by their spaces, a byte for every unknown character.

    Merges propose the pieces, then a few rounds of Viterbi training give them their probabilities.
    """
    fixed = _fixed_pieces(specials)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _marked_words("never")
    trainer = trainers.BpeTrainer(vocab_size=size - len(fixed), show_progress=False)
    learner.train_from_iterator(texts, trainer)
    pieces = sorted(learner.get_vocab())
    tokenizer = learner
    for _ in range(4):
        uses = Counter(piece for text in texts for piece in tokenizer.encode(text).tokens)
        total = uses.total() + len(pieces)
        scores = [(piece, math.log((uses[piece] + 1) / total)) for piece in pieces]
        vocab = [(token, -math.log(total) - 10.0) for token in fixed] + scores
        tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
        tokenizer.pre_tokenizer = _marked_words("never")
    tokenizer.decoder = _marked_decoder(strip=False)
    tokenizer.add_special_tokens([_special(token) for token in specials])
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _fixed_pieces(specials: Sequence[str]) -> list[str]:
    return [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]


def _marked_words(scheme: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(MARK, prepend_scheme=scheme, split=True),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[\p{P}\p{Sm}\p{Sc}\n\t]"), "isolated"),
        ]
    )


def _marked_decoder(*, strip: bool) -> decoders.Decoder:
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)


def _merges(tokenizer: Tokenizer) -> list[Sequence[str]]:
    return list(json.loads(tokenizer.to_str())["model"]["merges"])
