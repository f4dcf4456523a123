"""What is settled stays, whatever follows; what cannot be followed is named."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.tokenization.kinds_of_text import KINDS, text_of
from tests.tokenization.test_canonical import EVERY, FAMILIES, tokenizer
from tests.tokenizers_by_hand import BY_HAND


@pytest.mark.parametrize("name", [*FAMILIES, *BY_HAND])
def test_all_positions_offered_hold_for_any_more_text(name: str) -> None:
    own, noise = tokenizer(name), random.Random(name)
    num_offered = 0
    for _ in range(40):
        text = text_of(noise.choice(KINDS), noise.randint(1, 200), noise.randint(0, 9))
        before = own.encode(text)
        for each in own.settled("", text):
            rest = own.encode(each.lead + text[each.position :])[each.num_skipped :]
            kept = before[: len(before) - len(rest)]
            if kept + rest != before:
                continue
            num_offered += 1
            more = text_of(noise.choice(KINDS), noise.randint(1, 60), noise.randint(0, 9))
            longer = own.encode(each.lead + text[each.position :] + more)[each.num_skipped :]
            assert own.encode(text + more) == kept + longer
    assert num_offered > 10


@pytest.mark.parametrize("name", EVERY)
def test_every_tokenizer_here_is_followed(name: str) -> None:
    assert tokenizer(name).unfollowed is None


def _letters() -> tokenizers.Tokenizer:
    alphabet = {letter: number for number, letter in enumerate("abcdefghij klmnopqrstuvwxyz")}
    raw = tokenizers.Tokenizer(models.BPE(alphabet, []))
    raw.decoder = decoders.Fuse()
    return raw


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (pre_tokenizers.UnicodeScripts(), "UnicodeScripts"),
        (pre_tokenizers.Split(tokenizers.Regex(r"(?<=a)b"), "isolated"), "(?<="),
        (normalizers.Replace(tokenizers.Regex("(?<=a)b"), "c"), "(?<="),
        (tokenizers.AddedToken("abc", single_word=True), "abc"),
    ],
)
def test_what_is_not_followed_is_named_and_encoded_as_a_whole(part: object, named: str) -> None:
    raw = _letters()
    if isinstance(part, tokenizers.AddedToken):
        raw.add_tokens([part])
    elif isinstance(part, normalizers.Normalizer):
        raw.normalizer = part
    else:
        raw.pre_tokenizer = part
    own = HuggingFaceTokenizer(raw, lossy_ok=True)
    assert named in (own.unfollowed or "")
    assert list(own.settled("", "ab ab ab")) == []
