"""Guessing ahead changes what a response costs and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coolfusion import FusionModel, Generation, Recipe, Request, Sampling, SegmentDecoder, Source
from coolfusion.backends.base import Query, Scores
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.scheduler import ModelRequest
from coolfusion.decoding.segments.guesses import look_up
from coolfusion.decoding.segments.recipe import PRESETS
from coolfusion.decoding.segments.rerankers import RERANKERS, lead, without_outliers
from coolfusion.decoding.segments.speculation import Speculation
from coolfusion.errors import PromptError, SourceError
from coolfusion.testing import toy_source
from coolfusion.tokenization.boundaries import boundary_named
from tests.decoding.segments.test_decoder import PROMPTS, Failing, samplings, source_lists, toy
from tests.strategies import STORIES, said

JUDGES = {**RERANKERS, "without_outliers": without_outliers(RERANKERS["mean_nll"])}
BOUNDARIES = ("words", "phrases:2", "lines", "sentences", "whole_response")
OUTSIDE = toy("outside", "byte_bpe", (0, 1, 2, 3, 4))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    preset = PRESETS[draw(st.sampled_from(sorted(PRESETS)))]
    boundary = boundary_named(draw(st.sampled_from(BOUNDARIES)))
    return replace(
        preset, reranker=JUDGES[draw(st.sampled_from(sorted(JUDGES)))], boundary=boundary
    )


speculations = st.sampled_from(
    [Speculation(), Speculation(look_up=False), Speculation(drafter=OUTSIDE)]
)


def pair(
    sources: list[Source], recipe: Recipe, speculation: Speculation, request: Request
) -> list[list[Generation]]:
    return [
        SegmentDecoder(sources, recipe, speculation=how).generate_batch(
            PROMPTS, request, max_rows=rows
        )
        for how, rows in ((speculation, 3), (None, 1))
    ]


@settings(deadline=None)
@given(source_lists(), recipes(), speculations, samplings, st.integers(1, 40))
def test_on_equals_off(
    sources: list[Source],
    recipe: Recipe,
    speculation: Speculation,
    sampling: Sampling,
    limit: int,
) -> None:
    request = Request(max_new_tokens=limit, sampling=sampling, stop=("12",))
    with_it, without = pair(sources, recipe, speculation, request)
    for one, other in zip(with_it, without, strict=True):
        assert (one.text, one.stop_reason, one.stop_string) == (
            other.text,
            other.stop_reason,
            other.stop_string,
        )
        assert said(one.steps) == said(other.steps)


@pytest.mark.parametrize("judge", sorted(JUDGES))
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_reranker_and_number_of_sources(judge: str, number: int) -> None:
    families = ("byte_bpe", "sentencepiece_bpe", "characters", "bytes")
    shares = ((0, 1), (1, 2, 4), (2, 3), (0, 3, 4))
    sources = [toy(f, f, s) for f, s in zip(families[:number], shares, strict=False)]
    recipe = Recipe(reranker=JUDGES[judge])
    with_it, without = pair(sources, recipe, Speculation(), Request(max_new_tokens=40))
    assert [said(g.steps) for g in with_it] == [said(g.steps) for g in without]


def test_a_lead_that_is_also_the_guesser() -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    for name in ("one", "two"):
        with_it, without = pair(sources, Recipe(reranker=lead(name)), Speculation(), Request())
        assert [said(g.steps) for g in with_it] == [said(g.steps) for g in without]


@given(source_lists(min_size=2), st.sampled_from(PROMPTS), st.integers(0, 40))
def test_a_source_that_fails_while_guesses_are_made(
    sources: list[Source], prompt: str, after: int
) -> None:
    broken = replace(sources[0], backend=Failing(sources[0], after, RuntimeError("gone")))
    result = SegmentDecoder([broken, *sources[1:]]).generate(prompt, Request(max_new_tokens=30))
    intact = SegmentDecoder(sources).generate(prompt, Request(max_new_tokens=30))
    index = next((step.index for step in result.steps if step.dropped), len(result.steps))
    assert said(result.steps[:index]) == said(intact.steps[:index])
    assert result.text == "".join(step.segment for step in result.steps)


def test_an_outside_drafter_that_fails_is_done_without() -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    drafter = replace(OUTSIDE, backend=Failing(OUTSIDE, 2, RuntimeError("gone")))
    with_it, without = pair(sources, Recipe(), Speculation(drafter), Request())
    assert [said(g.steps) for g in with_it] == [said(g.steps) for g in without]


class Unreadable:
    """A tokenizer that takes no prompt."""

    def __init__(self, source: Source) -> None:
        self.inner = source.tokenizer
        self.end_ids, self.encode, self.piece = (
            self.inner.end_ids,
            self.inner.encode,
            self.inner.piece,
        )

    def encode_prompt(self, prompt: object) -> tuple[int, ...]:
        raise PromptError(f"I cannot read {prompt!r}.")


def test_an_outside_drafter_that_cannot_read_the_prompt_is_done_without() -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    drafter = replace(OUTSIDE, tokenizer=Unreadable(OUTSIDE))
    speculation = Speculation(drafter, look_up=False)
    decoder = SegmentDecoder(sources, speculation=speculation)
    outside = decoder._caches[-1]
    outside.pace.observe(1, 1e-9)  # it looks by far the fastest, so it is asked
    one = decoder.generate("Tom has", Request(max_new_tokens=30))
    other = SegmentDecoder(sources, speculation=None).generate(
        "Tom has", Request(max_new_tokens=30)
    )
    assert said(one.steps) == said(other.steps)


class Counting:
    """A backend that counts its calls and what it is asked about."""

    def __init__(self, source: Source) -> None:
        self.inner, self.calls, self.tokens = source.backend, 0, 0
        self.vocab_size, self.context_length = self.inner.vocab_size, self.inner.context_length

    def score(self, queries: list[Query]) -> list[Scores]:
        self.calls += 1
        self.tokens += sum(len(query.continuation) + 1 for query in queries)
        return self.inner.score(queries)

    def draft(self, queries: list[Query], num_tokens: int) -> list[Scores]:
        self.calls += num_tokens
        return self.inner.draft(queries, num_tokens)


def test_sources_that_agree_are_asked_far_less_often() -> None:
    twins = [toy_source(name, STORIES, family="characters", order=6) for name in ("one", "two")]
    calls = []
    for speculation in (Speculation(look_up=False), None):
        counting = [Counting(source) for source in twins]
        sources = [replace(s, backend=c) for s, c in zip(twins, counting, strict=True)]
        decoder = SegmentDecoder(sources, speculation=speculation)
        decoder.generate("The cat", Request(max_new_tokens=60))
        calls.append(min(counter.calls for counter in counting))
    assert 2 * calls[0] < calls[1]


@pytest.fixture(scope="module")
def builtin() -> FusionModel:
    return FusionModel.from_pretrained()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_trained_transformers(builtin: FusionModel, temperature: float) -> None:
    prompts = [
        [{"role": "user", "content": question}]
        for question in (
            "Ann has 14 pears. She buys 5 more pears and eats 3. How many pears has Ann now?",
            "A pen costs 4 coins and a book costs 9 coins. What do 2 pens and 1 book cost?",
            "There are 6 bags with 7 apples each. How many apples are there?",
        )
    ]
    settings = Request(max_new_tokens=80, sampling=Sampling(temperature, seed=3))
    for number in (1, 2, 3):
        sources = builtin.sources[:number]
        without = SegmentDecoder(sources, speculation=None).generate_batch(
            prompts, settings, max_rows=1
        )
        for rows in (1, 3):
            with_it = SegmentDecoder(sources).generate_batch(prompts, settings, max_rows=rows)
            for one, other in zip(with_it, without, strict=True):
                assert (one.text, one.stop_reason) == (other.text, other.stop_reason)
                for left, right in zip(one.steps, other.steps, strict=True):
                    assert [(c.text, c.drafters, c.num_tokens) for c in left.candidates] == [
                        (c.text, c.drafters, c.num_tokens) for c in right.candidates
                    ]
                    for a, b in zip(left.candidates, right.candidates, strict=True):
                        assert a.cost == pytest.approx(b.cost, abs=1e-3)


@given(st.data())
def test_recall_gives_what_the_backend_would(data: st.DataObject) -> None:
    inner = toy("one", "byte_bpe", (0, 1, 2, 3, 4)).backend
    recall = AnswerCache(inner)
    text: tuple[int, ...] = (1,)
    ids = st.lists(st.integers(0, 20), max_size=4).map(tuple)
    for _ in range(data.draw(st.integers(1, 12))):
        prefix = text[: data.draw(st.integers(1, len(text)))]
        sampling = data.draw(st.sampled_from([Sampling(), Sampling(1.0, seed=4)]))
        sequence_id = data.draw(st.sampled_from([None, 1]))
        asks = [
            ModelRequest(0, Query(prefix, data.draw(ids), (2,), sampling, sequence_id)),
            ModelRequest(0, Query(prefix, (), (2,), sampling, sequence_id), is_draft=True),
        ]
        scored, got = recall.answer(asks)
        drafted = replace(asks[1].query, continuation=got.picks[:-1])
        want = inner.score([asks[0].query, drafted])
        assert scored.log_probs == want[0].log_probs
        for name in ("picks", "pick_log_probs", "watched"):
            assert getattr(scored, name) == getattr(want[0], name)
            assert getattr(got, name) == getattr(want[1], name)
        text = prefix + asks[0].query.continuation + got.picks[:2]


def test_recall_asks_nothing_twice() -> None:
    counting = Counting(toy("one", "byte_bpe", (0, 1, 2, 3, 4)))
    recall = AnswerCache(counting)
    query = Query((1, 2, 3), (4, 5, 6), (2,), sequence_id=1)

    def answer(query: Query, *, is_draft: bool = False) -> Scores:
        return recall.answer([ModelRequest(0, query, is_draft)])[0]

    first = answer(query)
    assert answer(query) == replace(first, num_forwarded=0, num_passes=0)
    answer(replace(query, prefix=(1, 2, 3, 4), continuation=(5,)))
    answer(Query((1, 2, 3, 4, 5), (), (2,), sequence_id=1), is_draft=True)
    assert counting.calls == 1
    answer(replace(query, continuation=(4, 5, 6, 7)))
    assert counting.tokens == 4 + 2


def test_look_up_finds_what_was_said_last() -> None:
    said_before = "the quick brown fox. the quick brown dog. And the quick brown"
    assert look_up(said_before, 4) == " dog"
    assert look_up("nothing twice in here", 8) == ""
    assert look_up("ab", 8) == ""


def test_errors_of_a_guess_are_the_steps_own() -> None:
    source = toy("one", "byte_bpe", (0, 1))
    broken = replace(source, backend=Failing(source, 0, RuntimeError("gone")))
    with pytest.raises(SourceError, match="gone"):
        SegmentDecoder([broken]).generate("Tom has", Request(on_source_error="raise"))
