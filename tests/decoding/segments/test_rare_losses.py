"""Texts with a character that one of the sources cannot see."""

from __future__ import annotations

import pytest

from coolfusion import Request, SegmentDecoder
from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import make_mixture
from coolfusion.errors import PromptError
from coolfusion.testing import toy_source
from coolfusion.tokenization.base import pieces_text
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.odd_tokenizers import ODD

TEXT = "Tom\x0b has\x0b 3 apples.\x0b\x0b He eats."


def blind() -> Source:
    """A source without a token for U+000B."""
    raw = ODD["no-0x0b"]()
    tokenizer = HuggingFaceTokenizer(raw)
    backend = NgramBackend([tokenizer.encode(TEXT)] * 3, raw.get_vocab_size(), order=4)
    return Source("blind", tokenizer, backend)


@pytest.mark.parametrize("first", [True, False])
def test_the_text_keeps_what_a_source_does_not_see(first: bool) -> None:
    seeing, blind_one = toy_source("seeing", [TEXT] * 3), blind()
    sources = [seeing, blind_one] if first else [blind_one, seeing]
    generation = SegmentDecoder(sources).generate("Tom", Request(max_new_tokens=24))
    assert generation.text.startswith(TEXT.removeprefix("Tom"))
    assert not any("dropped" in each for each in generation.warnings)
    seen = pieces_text(blind_one.tokenizer, blind_one.tokenizer.encode(generation.text))
    assert seen == generation.text.replace("\x0b", "")


@pytest.mark.parametrize("rule", ["arithmetic", "geometric"])
def test_such_a_source_can_be_mixed(rule: str) -> None:
    both = MixtureDecoder([toy_source("seeing", [TEXT] * 3), blind()], make_mixture(rule))
    generation = both.generate("Tom", Request(max_new_tokens=24))
    assert not any("dropped" in each for each in generation.warnings)
    assert generation.text.replace("\x0b", "").startswith(" has 3 apples.")


def test_a_prompt_of_nothing_else_names_the_source() -> None:
    decoder = SegmentDecoder([toy_source("seeing", [TEXT]), blind()])
    with pytest.raises(PromptError, match='Source "blind": Nothing of the prompt'):
        decoder.generate("\x0b")
