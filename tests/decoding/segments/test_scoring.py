"""Scores by bytes are the sums over covers, and the decoder's laws hold with them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.source import Source
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import run
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.segments.scoring import (
    AFTER_A_SEGMENT,
    ByteScorer,
    Scorer,
    Segment,
    SegmentScores,
    score,
)
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import UsageError
from coolfusion.testing import toy_source, toy_tokenizer
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.covers import END
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from tests.covers_by_hand import ByHand
from tests.decoding.segments.test_drafting import PROMPT, TOKENIZER, writer

FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "characters", "bytes")
TEXTS = (
    "the cat sat on the mat. the category 12 \u65e5\u672c\u8a9e",
    "the dog sat. a cat, 1234 caf\u00e9",
)


@lru_cache
def toy(family: str) -> Source:
    return toy_source(family, TEXTS, family=family, vocab_size=330)


def view_of(source: Source, response: str) -> SourceView:
    canonical = extend(Canonical(), response, source.tokenizer)
    return SourceView(0, source, source.tokenizer.encode_prompt("the"), canonical)


def scored(view: SourceView, *segments: Segment, by: Scorer | None = None) -> SegmentScores:
    scorer = by or ByteScorer(view.source)
    return run(scorer(view, segments), [AnswerCache(view.source.backend)])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(
    response=st.sampled_from(["", " cat", " cat sat on"]),
    segments=st.dictionaries(
        st.sampled_from([" cat", " category", " mat.", " 12", " caf\u00e9", "\n", " x"]),
        st.booleans(),
        min_size=1,
    ),
)
def test_scores_are_those_of_brute_force(
    family: str, response: str, segments: dict[str, bool]
) -> None:
    source = toy(family)
    view = view_of(source, response)
    found = scored(view, *(Segment(*each) for each in segments.items()))
    by_hand = ByHand(source, view.prefix)
    for segment, got in zip(segments.items(), found.log_likelihoods, strict=True):
        sums = by_hand.sums(segment[0].encode())
        wanted = sums[END] if segment[1] else sums[AFTER_A_SEGMENT].sum()
        assert np.isclose(np.exp(got), wanted, rtol=1e-9, atol=0)
    for segment, got in zip(segments, found.log_first, strict=True):
        assert np.isclose(np.exp(got), by_hand.sums(b"")[segment.encode()[0]])


def test_after_an_unspaced_script_anything_may_follow() -> None:
    source = toy("sentencepiece_bpe")
    view = view_of(source, "")
    (got,) = scored(view, Segment(" \u65e5\u672c")).log_likelihoods
    data = " \u65e5\u672c".encode()
    assert np.isclose(np.exp(got), ByHand(source, view.prompt_ids).mass(data, judged=True))


def test_a_word_that_could_go_on_is_not_favoured() -> None:
    """By its tokens, a source that writes letters finds the beginning of a word likelier than it."""
    source = toy_source("x", ["a category"] * 8, family="characters", order=6)
    view, segments = view_of(source, ""), (Segment(" cat"), Segment(" category"))
    by_tokens = scored(view, *segments, by=score).log_likelihoods
    by_bytes = scored(view, *segments).log_likelihoods
    assert by_tokens[0] > by_tokens[1]
    assert by_bytes[0] < by_bytes[1]


def test_segments_that_no_tokens_spell_are_scored_by_their_tokens() -> None:
    raw = toy_tokenizer(TEXTS, family="byte_bpe")
    raw.normalizer = normalizers.NFC()
    tokenizer = HuggingFaceTokenizer(raw, end_ids=[raw.token_to_id("<end>")])
    ids = [tokenizer.encode(text) for text in TEXTS]
    source = Source("nfc", tokenizer, NgramBackend(ids, raw.get_vocab_size()))
    view, segments = view_of(source, ""), (Segment(" cafe\u0301"), Segment(" cat"))
    plain = scored(view, *segments, by=score)
    assert scored(view, *segments).log_likelihoods == plain.log_likelihoods


def test_the_decoder_with_scores_by_bytes() -> None:
    sources = [
        toy_source("a", [TEXTS[0]] * 3, family="byte_bpe", vocab_size=330),
        toy_source("b", [TEXTS[1]] * 3, family="unigram", vocab_size=330),
    ]
    recipe = make_recipe(scores="bytes", reranker="bits_per_byte")
    request = Request(max_new_tokens=24)
    prompts = ["the", "a cat", "the dog sat"]
    fused = [SegmentDecoder(sources, recipe).generate(prompt, request) for prompt in prompts]
    assert any(step.contested for each in fused for step in each.steps)
    slow = SegmentDecoder(sources, recipe, speculation=None)
    assert [slow.generate(p, request).text for p in prompts] == [each.text for each in fused]
    batch = SegmentDecoder(sources, recipe).generate_batch(prompts, request)
    assert [each.text for each in batch] == [each.text for each in fused]
    one = SegmentDecoder([sources[0], Source("again", *_parts(sources[0]))], recipe)
    alone = SegmentDecoder(sources[:1]).generate("the", request)
    assert one.generate("the", request).text == alone.text


def _parts(source: Source) -> tuple:
    return source.tokenizer, source.backend


def test_only_what_there_is_to_score_by() -> None:
    with pytest.raises(UsageError, match="scores is 'letters'"):
        make_recipe(scores="letters")


def test_a_candidate_may_fill_the_context_window() -> None:
    """Two tokens fit beside the prompt, and both drafts have two."""
    narrow, wide = writer(b"ab", room=2), writer(b"cd", "two")
    decoder = SegmentDecoder([narrow, wide], make_recipe(boundary="whole_response"))
    _, step = decoder.step(decoder.start(PROMPT))
    assert [candidate.text for candidate in step.candidates] == ["ab", "cd"]
    assert step.dropped == ()
    assert np.isfinite([candidate.log_likelihoods for candidate in step.candidates]).all()
    longer = SegmentDecoder([narrow, writer(b"cde", "two")], make_recipe(boundary="whole_response"))
    _, step = longer.step(longer.start(PROMPT))
    assert [gone.source for gone in step.dropped] == ["one"]
    assert "context window" in step.dropped[0].reason


@pytest.mark.parametrize(("shares", "ends"), [((2, 3), True), ((1, 9), False)])
def test_an_end_competes_with_the_first_token_of_a_draft(
    shares: tuple[int, int], ends: bool
) -> None:
    """Not with the last, of which both sources are sure, nor with the whole draft.

    One source ends 3 of 4 times and writes "xy" otherwise, the other 2 of 5 times or 1 of 10:
    0.75 * 0.4 > 0.25 * 0.6, and 0.75 * 0.1 < 0.25 * 0.9.
    """
    sources = [written("one", 3, 1), written("two", *shares)]
    recipe = make_recipe(boundary="whole_response", end_rule="token_contest")
    decoder = SegmentDecoder(sources, recipe)
    _, step = decoder.step(decoder.start(PROMPT))
    assert np.exp(step.log_end) == pytest.approx([0.75, shares[0] / sum(shares)], abs=1e-4)
    assert step.ends is ends


def written(name: str, num_ends: int, num_xy: int) -> Source:
    """A source that has seen so many ends after the prompt, and so often ``xy``."""
    prompt, end = TOKENIZER.encode_prompt(PROMPT), next(iter(TOKENIZER.end_ids))
    texts = [(*prompt, end)] * num_ends + [(*prompt, *TOKENIZER.encode("xy"), end)] * num_xy
    return Source(name, TOKENIZER, NgramBackend(texts, 257, order=9, strength=1e-6))
