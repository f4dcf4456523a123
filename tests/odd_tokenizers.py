"""Tokenizers with one odd property each, made from the toy families."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import AddedToken, normalizers

from coolfusion.testing.toys import toy_tokenizer

TEXTS = ("Tom has 3 apples.\n\nHe eats 1,000 apples.\n    The end  of   it 0000.",)
ADDED = (
    AddedToken("</s>", rstrip=True, normalized=False),
    AddedToken("<l>", lstrip=True, normalized=False),
    AddedToken("<lr>", lstrip=True, rstrip=True, normalized=True),
    AddedToken("word", single_word=True, normalized=False),
    AddedToken("<n>", normalized=True),
    AddedToken("   ", normalized=False),
    AddedToken("\u65e5", normalized=True),
    AddedToken("a\u2581b", normalized=False),
)
Spec = dict[str, Any]


def edited(family: str, edit: Callable[[Spec], None]) -> tokenizers.Tokenizer:
    spec = json.loads(toy_tokenizer(TEXTS, family=family).to_str())
    edit(spec)
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def with_added(family: str) -> tokenizers.Tokenizer:
    tokenizer = toy_tokenizer(TEXTS, family=family)
    tokenizer.add_tokens(list(ADDED))
    return tokenizer


def normalizing(family: str, normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    tokenizer = toy_tokenizer(TEXTS, family=family)
    tokenizer.normalizer = normalizer
    return tokenizer


def _without(names: str) -> Callable[[Spec], None]:
    def edit(spec: Spec) -> None:
        model = spec["model"]
        kept = [name for name in model["vocab"] if not set(name) & set(names)]
        model["vocab"] = {name: index for index, name in enumerate(kept)}
        model["merges"] = [pair for pair in model["merges"] if not set("".join(pair)) & set(names)]
        spec["added_tokens"] = []

    return edit


def _byteless(spec: Spec) -> None:
    spec["model"]["byte_fallback"] = False


def _prefixed(spec: Spec) -> None:
    spec["pre_tokenizer"] |= {"add_prefix_space": True, "trim_offsets": True}


def _random_merges(spec: Spec) -> None:
    spec["model"]["dropout"] = 0.5


def _spaces_added(mark: str) -> Callable[[Spec], None]:
    """Two marks of a space are a token of the model and an added one, as in Gemma 2 and 3."""

    def edit(spec: Spec) -> None:
        vocabulary = spec["model"]["vocab"]
        if mark * 2 not in vocabulary:
            vocabulary[mark * 2] = max(vocabulary.values()) + 1
            spec["model"]["merges"].append([mark, mark])
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        token = {"id": vocabulary[mark * 2], "content": mark * 2, **flags}
        spec["added_tokens"] = [*spec["added_tokens"], token]

    return edit


def _literal_names(spec: Spec) -> None:
    spec["model"]["ignore_merges"] = True


# Names of the bytes 0x0B and 0xE6 in GPT-2's alphabet.
ODD: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    **{f"added-{f}": lambda f=f: with_added(f) for f in ("byte_bpe", "sentencepiece_bpe")},
    **{f"added-{f}": lambda f=f: with_added(f) for f in ("unigram", "characters")},
    "no-0x0b": lambda: edited("byte_bpe", _without("\u010b")),
    "no-0xe6": lambda: edited("byte_bpe", _without("\u00e6")),
    "byteless-bpe": lambda: edited("sentencepiece_bpe", _byteless),
    "byteless-unigram": lambda: edited("unigram", _byteless),
    "lower-case": lambda: normalizing("byte_bpe", normalizers.Lowercase()),
    "nfkc": lambda: normalizing("byte_bpe", normalizers.NFKC()),
    "nfd": lambda: normalizing("byte_bpe", normalizers.NFD()),
    "no-accents": lambda: normalizing(
        "byte_bpe", normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    ),
    "stripped": lambda: normalizing("byte_bpe", normalizers.Strip()),
    "clean": lambda: normalizing(
        "byte_bpe", normalizers.BertNormalizer(True, False, False, False)
    ),
    "prefixed": lambda: edited("byte_bpe", _prefixed),
    "random-merges": lambda: edited("byte_bpe", _random_merges),
    "marks-of-spaces": lambda: edited("sentencepiece_bpe", _spaces_added("\u2581")),
    "bytes-of-spaces": lambda: edited("byte_bpe", _spaces_added("\u0120")),
    "literal-names": lambda: edited("characters", _literal_names),
}  # fmt: skip
