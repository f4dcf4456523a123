"""Toy sources for docs and tests: real tokenizers over small texts, exact n-gram models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.source import Source
from coolfusion.errors import UsageError
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer

END = "<end>"


def toy_source(
    name: str,
    texts: Sequence[str],
    *,
    family: str = "byte_bpe",
    order: int = 4,
    vocab_size: int = 320,
    context_length: int | None = None,
) -> Source:
    """An n-gram source over ``texts``, with a tokenizer of the given family trained on them.

    Families: byte_bpe, sentencepiece_bpe, unigram, characters, bytes. Raises ``UsageError`` for
    others.
    """
    raw = toy_tokenizer(texts, family=family, vocab_size=vocab_size)
    end = raw.get_vocab()[END]
    tokenizer = HuggingFaceTokenizer(raw, end_ids=[end])
    ids = [(*tokenizer.encode_prompt(text), end) for text in texts]
    backend = NgramBackend(ids, raw.get_vocab_size(), order=order, context_length=context_length)
    return Source(name, tokenizer, backend)


def toy_tokenizer(
    texts: Sequence[str], *, family: str = "byte_bpe", vocab_size: int = 320
) -> tokenizers.Tokenizer:
    """A small tokenizer of one of the families that can encode any text."""
    if family not in _FAMILIES:
        raise UsageError(
            f'There is no toy tokenizer family "{family}". Choose one of {", ".join(_FAMILIES)}.'
        )
    return _FAMILIES[family](texts, vocab_size)


def _byte_bpe(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _mark_spaces(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """As in Llama 2: a word mark for each space, and one before the text."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _sentencepiece_bpe(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=max(2, vocab_size - 258), show_progress=False)
    )
    learned = _model_of(learner)
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    tokens = list(dict.fromkeys(["<unk>", END, *_byte_tokens(), "\u2581", *pieces]))
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.add_special_tokens([END, "<unk>"])
    return _mark_spaces(tokenizer)


def _unigram(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    learner = tokenizers.Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=max(64, vocab_size - 258),
            unk_token="<unk>",
            special_tokens=["<unk>"],
            show_progress=False,
        ),
    )
    learned = [(token, score) for token, score in _model_of(learner)["vocab"] if token != "<unk>"]
    present = {token for token, _ in learned}
    extra = [] if "\u2581" in present else [("\u2581", -8.0)]
    vocab = [
        ("<unk>", 0.0),
        (END, 0.0),
        *((token, -20.0) for token in _byte_tokens()),
        *extra,
        *learned,
    ]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.add_special_tokens([END, "<unk>"])
    return _mark_spaces(tokenizer)


def _characters(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Single characters of the texts; anything else falls back to bytes."""
    alphabet = sorted(
        {char for text in texts for char in text} | {chr(code) for code in range(32, 127)}
    )
    tokens = ["<unk>", END, *_byte_tokens(), *alphabet]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END, "<unk>"])
    return tokenizer


def _bytes(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, END])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def _model_of(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


_FAMILIES: Mapping[str, Callable[[Sequence[str], int], tokenizers.Tokenizer]] = {
    "byte_bpe": _byte_bpe,
    "sentencepiece_bpe": _sentencepiece_bpe,
    "unigram": _unigram,
    "characters": _characters,
    "bytes": _bytes,
}
