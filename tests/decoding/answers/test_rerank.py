"""Whole answers: scored as the naive algorithm scores them, reranked, and voted on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import Request, Sampling, SegmentDecoder, Source, StopReason, UsageError
from coolfusion.backends.base import Query, Scores
from coolfusion.decoding.answers.rerank import (
    FUSED,
    Ranking,
    candidates_of,
    own_answers,
    rerank,
    rerank_answers,
    sample_requests,
)
from coolfusion.decoding.answers.vote import majority_vote, self_consistency
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.rerankers import RERANKERS, mean_nll
from coolfusion.errors import SourceError
from coolfusion.types import Candidate
from tests.decoding.segments.test_decoder import prompts, source_lists, toy
from tests.decoding.segments.test_reference import by_backend, voice_of
from tests.strategies import texts

REQUEST = Request(max_new_tokens=25)


class Broken:
    """A backend that answers nothing."""

    vocab_size = 10
    context_length = None

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        raise SourceError("it is broken")

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        raise SourceError("it is broken")


def broken(source: Source) -> Source:
    return Source("broken", source.tokenizer, Broken())  # type: ignore[arg-type]


def candidates(*answers: str) -> tuple[Candidate, ...]:
    return candidates_of(
        [
            (str(n), text, StopReason.END if n % 2 else StopReason.LENGTH)
            for n, text in enumerate(answers)
        ]
    )


def voices_of(sources: list[Source], prompt: str) -> list:
    """The reference's view of sources that are order-3 models."""
    return [voice_of(source, prompt, by_backend(source)) for source in sources]


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from(["byte_bpe", "sentencepiece_bpe", "characters"]), min_size=1, unique=True
    ),
    prompts,
    st.lists(texts, min_size=2, max_size=4, unique=True),
)
def test_the_table_is_what_whole_answers_naively_score(
    families: list[str], prompt: str, answers: list[str]
) -> None:
    sources = [toy(family, family, (0, 1, 2), order=3) for family in families]
    (ranking,) = rerank(sources, [prompt], [candidates(*answers)])
    costs = []
    for candidate in ranking.candidates:
        wanted = []
        for k, voice in enumerate(voices_of(sources, prompt)):
            log_likelihood = voice.log_likelihood(candidate.text)
            count = len(voice.encode(candidate.text)) + candidate.ends
            if candidate.ends:
                log_likelihood += voice.log_end(candidate.text)
            assert candidate.log_likelihoods[k] == pytest.approx(log_likelihood, rel=1e-9, abs=1e-9)
            assert candidate.num_tokens[k] == max(1, count)
            wanted.append(-log_likelihood / max(1, count))
        costs.append(float(np.mean(wanted)))
        assert candidate.cost == pytest.approx(costs[-1])
    assert ranking.candidates[ranking.winner].cost == min(c.cost for c in ranking.candidates)
    assert ranking.text == ranking.candidates[ranking.winner].text


@settings(max_examples=20)
@given(source_lists(), prompts)
def test_one_source_is_that_source(sources: list[Source], prompt: str) -> None:
    alone = sources[:1]
    (answer,) = own_answers(alone[0], [prompt], REQUEST)
    for fused in (False, True):
        (ranking,) = rerank_answers(SegmentDecoder(alone), [prompt], REQUEST, with_fused=fused)
        assert ranking.text == answer.text
        assert ranking.drafters[0] == alone[0].name
    assert answer.text == SegmentDecoder(alone).generate(prompt, REQUEST).text


@settings(max_examples=20)
@given(source_lists(min_size=2), prompts, st.data())
def test_permuting_sources_permutes_the_table(
    sources: list[Source], prompt: str, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(sources))))
    (one,) = rerank_answers(SegmentDecoder(sources), [prompt], REQUEST)
    (other,) = rerank_answers(SegmentDecoder([sources[k] for k in order]), [prompt], REQUEST)
    by_text = {candidate.text: candidate for candidate in other.candidates}
    assert set(by_text) == {candidate.text for candidate in one.candidates}
    for candidate in one.candidates:
        twin = by_text[candidate.text]
        assert set(twin.drafters) == set(candidate.drafters)
        if candidate.cost is not None:
            assert twin.cost == pytest.approx(candidate.cost)
            assert twin.log_likelihoods == tuple(candidate.log_likelihoods[k] for k in order)
    costs = sorted(c.cost for c in one.candidates if c.cost is not None)
    if len(costs) < 2 or costs[1] - costs[0] > 1e-9:
        assert len(one.candidates) == 1 or one.text == other.text


@settings(max_examples=15)
@given(
    source_lists(min_size=2),
    st.lists(prompts, min_size=1, max_size=3),
    st.sampled_from(sorted(RERANKERS)),
)
def test_cool_r_is_never_worse_than_its_parts_by_the_cost(
    sources: list[Source], asked: list[str], reranker: str
) -> None:
    decoder = SegmentDecoder(sources, Recipe(reranker=RERANKERS[reranker]))
    rankings = rerank_answers(decoder, asked, REQUEST, with_fused=True)
    for prompt, ranking in zip(asked, rankings, strict=True):
        by_text = {candidate.text: candidate for candidate in ranking.candidates}
        assert FUSED in by_text[decoder.generate(prompt, REQUEST).text].drafters
        for source in sources:
            (own,) = own_answers(source, [prompt], REQUEST)
            assert source.name in by_text[own.text].drafters
        best = ranking.n_best()
        assert best[0].text == ranking.text
        assert [c.cost for c in best] == sorted(c.cost for c in best) or best[0].cost is None
        assert ranking.n_best(1) == best[:1]
        assert all(spent.num_forwarded > 0 for spent in ranking.usage)


def test_a_batch_is_its_rows() -> None:
    sources = [toy("a", "byte_bpe", (0, 1)), toy("b", "unigram", (2, 3, 4))]
    asked = ["Tom has", "Ann", "The cat"]
    together = rerank_answers(SegmentDecoder(sources), asked, REQUEST)
    for prompt, ranking in zip(asked, together, strict=True):
        (alone,) = rerank_answers(SegmentDecoder(sources), [prompt], REQUEST)
        assert (alone.candidates, alone.winner) == (ranking.candidates, ranking.winner)


def test_equal_answers_are_one_candidate_and_broken_ones_are_none() -> None:
    end, cut, failed = StopReason.END, StopReason.LENGTH, StopReason.SOURCES_FAILED
    answers = [
        ("a", "x", cut),
        ("b", "y", end),
        ("c", "x", end),
        ("d", "z", failed),
        ("e", "", cut),
    ]
    assert candidates_of(answers) == (
        Candidate("x", True, ("a", "c")),
        Candidate("y", True, ("b",)),
    )
    assert candidates_of([("a", "", end)]) == (Candidate("", True, ("a",)),)
    assert candidates_of([]) == ()


def test_a_source_that_cannot_score_is_no_judge() -> None:
    good = toy("good", "byte_bpe", (0, 1))
    entries = candidates("Tom", "Ann has 5")
    (alone,) = rerank([good], ["Now"], [entries])
    (ranking,) = rerank([broken(good), good], ["Now"], [entries])
    assert (ranking.winner, ranking.dropped[0].source) == (alone.winner, "broken")
    assert math.isnan(ranking.candidates[0].log_likelihoods[0])
    assert ranking.candidates[0].cost == alone.candidates[0].cost
    (nobody,) = rerank([broken(good)], ["Now"], [entries])
    assert (nobody.winner, nobody.candidates) == (0, entries)
    with pytest.raises(SourceError, match="it is broken"):
        rerank([broken(good), good], ["Now"], [entries], on_source_error="raise")
    (empty,) = rerank([good], ["Now"], [()])
    assert (empty.text, empty.drafters, empty.winner) == ("", (), None)


def test_a_narrow_context_window_drops_a_judge() -> None:
    from coolfusion.testing import toy_source

    wide = toy("wide", "byte_bpe", (0, 1))
    narrow = toy_source("narrow", ["Tom has 3 apples."], context_length=6)
    (ranking,) = rerank([wide, narrow], ["Tom"], [candidates(" has 3 apples and pears", " x")])
    assert [gone.source for gone in ranking.dropped] == ["narrow"]


def test_nan_costs_lose() -> None:
    source = toy("a", "byte_bpe", (0, 1))

    def judge(table):
        costs = mean_nll(table)
        costs[0] = np.nan
        return costs

    (ranking,) = rerank([source], ["Now"], [candidates("Tom", "Ann")], judge)
    assert ranking.text == "Ann"
    assert [c.text for c in ranking.n_best()] == ["Ann", "Tom"]


@given(st.lists(st.sampled_from(["1", "2", "3", "x", ""]), min_size=1, max_size=9))
def test_the_majority_wins_and_the_first_of_equals(answers: list[str]) -> None:
    vote = majority_vote(answers, lambda text: text if text != "x" else None)
    readings = [text for text in answers if text != "x"]
    counts = Counter(readings)
    assert vote.counts == dict(counts)
    if readings:
        most = max(counts.values())
        assert vote.text == next(text for text in readings if counts[text] == most)
    else:
        assert vote.winner == 0


def test_samples_are_seeded_and_voted_on() -> None:
    sources = [toy("a", "byte_bpe", (0, 1, 2)), toy("b", "characters", (1, 2))]
    request = Request(max_new_tokens=12, sampling=Sampling(temperature=1.0, seed=5))
    (vote,) = self_consistency(sources, ["Tom has"], request, str.strip, 3)
    assert len(vote.texts) == 6
    for number, sample in enumerate(sample_requests(request, 3)):
        assert sample.sampling.seed == 5 + number
        for k, source in enumerate(sources):
            assert vote.texts[3 * k + number] == own_answers(source, ["Tom has"], sample)[0].text
    (again,) = self_consistency(sources, ["Tom has"], request, str.strip, 3)
    assert again == vote
    (ranking,) = rerank_answers(SegmentDecoder(sources), ["Tom has"], request, num_samples=3)
    assert {c.text for c in ranking.candidates} <= set(vote.texts)


def test_what_cannot_be_sampled_is_said() -> None:
    with pytest.raises(UsageError, match="temperature 0"):
        sample_requests(Request(), 2)
    with pytest.raises(UsageError, match="num_samples is 0"):
        sample_requests(Request(), 0)
    with pytest.raises(UsageError, match="no answers"):
        majority_vote([], str)
    assert sample_requests(Request(), 1) == [Request()]
    assert Ranking(("a",), (), None, (), (), 0.0).n_best() == ()
