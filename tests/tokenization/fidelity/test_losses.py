"""What a tokenizer does not give back is named, and nothing else is lost."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coolfusion.builtin import builtin_paths
from coolfusion.errors import LossyTokenizerError, PromptError
from coolfusion.testing.toys import toy_tokenizer
from coolfusion.tokenization.base import pieces_text
from coolfusion.tokenization.fidelity.code_points import rare_characters, sample_characters
from coolfusion.tokenization.fidelity.differences import differences, same
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.odd_tokenizers import ADDED, ODD, TEXTS
from tests.strategies import FAMILIES, FRAGMENTS

FOLDER = os.environ.get("COOLFUSION_REAL")
REAL = sorted(Path(FOLDER).glob("tokenizers/*")) if FOLDER else []
NAMES = (*FAMILIES, *ODD, *(path.name for path in (*builtin_paths(), *REAL)))
SPACES = ("space", "line breaks", "tabs")
TYPED = ("</s>", "<s>", "<|im_end|>", "<\uff5cfim\u2581hole\uff5c>", "[REFERENCE_DOC_3]", "\u00f5")

characters = st.one_of(
    st.sampled_from(rare_characters()),
    st.sampled_from(sample_characters()),
    st.characters(exclude_categories=["Cs"]),
)
added = st.sampled_from([*TYPED, *(token.content for token in ADDED)])
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), characters, added), max_size=9)


@lru_cache
def loaded(name: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(raw_of(name), lossy_ok=True)


def raw_of(name: str) -> tokenizers.Tokenizer:
    paths = {path.name: path for path in (*builtin_paths(), *REAL)}
    if name in paths:
        return tokenizers.Tokenizer.from_file(str(paths[name] / "tokenizer.json"))
    return ODD[name]() if name in ODD else toy_tokenizer(TEXTS, family=name)


def round_trip(tokenizer: HuggingFaceTokenizer, text: str) -> str:
    return pieces_text(tokenizer, tokenizer.encode(text))


def kinds_of(losses: tuple[str, ...]) -> set[str]:
    return {loss.split(" (")[0] for loss in losses}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(parts=texts)
@example(parts=["a", "</s>", "b"])
@example(parts=["a", "</s>", " b"])
@example(parts=["a\u2581b"])
@example(parts=["a \u2581 b\u2581"])
@example(parts=["a\x0bb\x0c\x00\x85\u2028"])
@example(parts=["\U00040000\U00080000\U000c0000"])
@example(parts=["a", "word", "   ", "word"])
def test_a_text_survives_or_holds_what_is_named(name: str, parts: list[str]) -> None:
    tokenizer, text = loaded(name), "".join(parts)
    got = round_trip(tokenizer, text)
    if same(text, got):
        return
    lost, named = {kind for kind, _ in differences(text, got)}, kinds_of(tokenizer.losses)
    if tokenizer.losses == tokenizer.rare_losses:
        assert lost <= named
    elif not lost & named:  # refused; kinds of white space are not told apart without context
        assert any(word in kind for kind in lost for word in SPACES)
        assert any(word in kind for kind in named for word in SPACES)


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(path.name for path in builtin_paths()), "literal-names", "random-merges"]
)
def test_usual_tokenizers_lose_nothing(name: str) -> None:
    assert loaded(name).losses == ()


@pytest.mark.parametrize("family", ["byte_bpe", "sentencepiece_bpe", "unigram", "characters"])
@pytest.mark.parametrize("token", ADDED, ids=lambda token: repr(token.content))
def test_added_tokens_keep_what_is_around_them(family: str, token: tokenizers.AddedToken) -> None:
    tokenizer = loaded(f"added-{family}")
    assert tokenizer.losses == ()
    name = token.content
    for text in (f"a{name}b", f"a {name} b", f" {name}\n{name}", f"{name}{name}", f"\t{name} "):
        assert round_trip(tokenizer, text) == text
    own = HuggingFaceTokenizer(ODD[f"added-{family}"]()).encode(f"a {name} b")
    (token_id,) = [i for i in own if tokenizer.piece(i) == name.encode()][:1]
    assert token_id >= 256  # the added token itself, and no spelling of it


@pytest.mark.parametrize(
    ("name", "lost", "kept"),
    [
        ("lower-case", {"capital letters"}, {"a leading space", "punctuation"}),
        ("nfkc", {"full-width and other compatible forms", "special spaces"}, {"accents"}),
        ("no-accents", {"accents", "combining marks"}, {"capital letters"}),
        ("stripped", {"a leading space", "a trailing space"}, {"capital letters"}),
        ("no-0xe6", {"other scripts"}, {"accents", "emoji and other symbols"}),
        ("clean", {"line breaks", "zero-width joiners"}, {"capital letters"}),
    ],
)
def test_a_refusal_names_what_is_lost(name: str, lost: set[str], kept: set[str]) -> None:
    named = kinds_of(loaded(name).losses)
    assert lost <= named
    assert not kept & named
    with pytest.raises(LossyTokenizerError, match=next(iter(sorted(lost)))):
        HuggingFaceTokenizer(ODD[name]())


@pytest.mark.parametrize(
    ("text", "got", "kinds"),
    [
        ("One TWO", " One TWO", {"a leading space"}),
        ("One TWO", "one two", {"capital letters"}),
        ("one", "one ", {"a trailing space"}),
        ("a  b", "a b", {"runs of white space"}),
        ("a b", "ab", {"single spaces"}),
        ("It's", "It ' s", {"words without a space between them"}),
        ("a\nb", "a b", {"line breaks"}),
        ("a\tb", "a b", {"tabs"}),
        ("na\u00efve", "naive", {"accents"}),
        ("\u00c9t\u00e9", "ete", {"accents", "capital letters"}),
        ("\uff21\uff11", "A1", {"full-width and other compatible forms"}),
        ("10\u00a0000", "10 000", {"special spaces"}),
        ("a\x0bb", "ab", {"control characters"}),
        ("a\u2581b", "a b", {"the word mark of SentencePiece"}),
        ("\u65e5\u672c b", " b", {"other scripts"}),
        ("x\U0001f44d", "x", {"emoji and other symbols"}),
        ("a", "a!", {"text that appears"}),
        ("e\u0301", "\u00e9", set()),
    ],
)
def test_a_difference_has_one_name(text: str, got: str, kinds: set[str]) -> None:
    assert {kind for kind, _ in differences(text, got)} == kinds


def test_rare_losses_are_listed_and_do_not_refuse() -> None:
    tokenizer = HuggingFaceTokenizer(ODD["no-0x0b"]())
    assert tokenizer.losses == tokenizer.rare_losses
    assert tokenizer.losses == ("control characters (U+000B: '\\x0b' became '')",)
    with pytest.raises(PromptError, match=r"Nothing of the prompt .* loses control characters"):
        tokenizer.encode_prompt("\x0b")
    assert tokenizer.encode_prompt("a\x0b") == tokenizer.encode_prompt("a")


def test_merges_are_not_dropped_at_random() -> None:
    tokenizer = HuggingFaceTokenizer(ODD["random-merges"]())
    text = TEXTS[0] * 3
    ids = tokenizer.encode(text)
    tokenizer.encode.cache_clear()
    assert all(tokenizer._encode(text) == ids for _ in range(5))
    assert ids == HuggingFaceTokenizer(toy_tokenizer(TEXTS)).encode(text)


def test_the_given_tokenizer_is_not_altered() -> None:
    raw = ODD["added-sentencepiece_bpe"]()
    before = json.loads(raw.to_str())
    HuggingFaceTokenizer(raw)
    assert json.loads(raw.to_str()) == before


@pytest.mark.parametrize("name", ["llama2", "sentencepiece_bpe", "unigram", "byte_bpe", "gpt2"])
def test_the_trials_are_few(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters sent to the tokenizer while it is loaded, whatever its vocabulary holds."""
    if name not in NAMES:
        pytest.skip("COOLFUSION_REAL names no folder")
    sent: list[int] = []
    trip = HuggingFaceTokenizer._trip

    def counting(self: HuggingFaceTokenizer, text: str) -> str:
        sent.append(len(text))
        return trip(self, text)

    monkeypatch.setattr(HuggingFaceTokenizer, "_trip", counting)
    HuggingFaceTokenizer(raw_of(name), lossy_ok=True)
    assert len(sent) < 3_000
    assert sum(sent) < 120_000


@pytest.mark.parametrize("name", ["marks-of-spaces", "bytes-of-spaces"])
def test_an_added_token_that_the_model_makes_of_spaces(name: str) -> None:
    tokenizer = loaded(name)
    assert tokenizer.losses == ()
    both = tokenizer.encode("a   b")[1]
    assert tokenizer.piece(both) == b"  "
    assert both not in tokenizer.encode("a\u2581\u2581b \u0120\u0120")
