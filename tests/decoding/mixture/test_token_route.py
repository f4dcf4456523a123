"""Token-wise mixtures, on exact n-gram sources that share a vocabulary and on trained models."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coolfusion import (
    Generation,
    HuggingFaceTokenizer,
    PromptError,
    Request,
    Sampling,
    SegmentDecoder,
    Source,
    StopReason,
    UsageError,
    read_trace,
    write_trace,
)
from coolfusion.backends.base import Distributions, Query
from coolfusion.backends.ngram import NgramBackend
from coolfusion.backends.sampling import filtered
from coolfusion.builtin import builtin_paths
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import Mixture, make_mixture
from coolfusion.decoding.mixture.rules import Arithmetic
from coolfusion.decoding.mixture.string_route import UnionRoute
from coolfusion.decoding.mixture.token_route import DrawnTokenRoute, TokenRoute
from coolfusion.decoding.mixture.vocabulary import Vocabulary, vocabulary_difference
from coolfusion.errors import NonFiniteError, SourceError
from coolfusion.testing import toy_source
from coolfusion.testing.toys import END, toy_tokenizer
from tests.decoding.segments.test_decoder import PROMPTS, Failing
from tests.strategies import FAMILIES, STORIES, said

RULES = ("arithmetic", "geometric", "top_k_union(4)")
SHARES = ((0, 1), (1, 2, 4), (2, 3), (0, 3, 4))


@lru_cache(maxsize=256)
def tokenizer_of(family: str) -> HuggingFaceTokenizer:
    raw = toy_tokenizer(STORIES, family=family, vocab_size=300)
    return HuggingFaceTokenizer(raw, end_ids=[raw.get_vocab()[END]])


@lru_cache(maxsize=256)
def own(name: str, family: str, share: tuple[int, ...], order: int = 4) -> Source:
    """A source that learnt some of the stories, with the tokenizer of all."""
    tokenizer = tokenizer_of(family)
    (end,) = tokenizer.end_ids
    ids = [(*tokenizer.encode_prompt(STORIES[i]), end) for i in share]
    size = 1 + max(
        token for token in range(2000) if tokenizer.piece(token) is not None or token == end
    )
    return Source(name, tokenizer, NgramBackend(ids, size, order=order))


@lru_cache(maxsize=256)
def vocabulary_of(source: Source) -> Vocabulary:
    return Vocabulary(source.tokenizer, source.backend.vocab_size)


@st.composite
def companies(draw: st.DrawFn, min_size: int = 1) -> list[Source]:
    """Sources with one vocabulary."""
    family = draw(st.sampled_from(FAMILIES))
    shares = draw(st.lists(st.sampled_from(SHARES), min_size=min_size, max_size=3))
    order = draw(st.sampled_from([2, 4]))
    return [own(f"source {k}", family, share, order) for k, share in enumerate(shares)]


prompts = st.sampled_from(PROMPTS)
rules = st.sampled_from(RULES)
samplings = st.sampled_from([Sampling(), Sampling(0.8, 0, 0.95, 1), Sampling(1.2, 20, 1.0, 2)])


def run(
    sources: Sequence[Source], prompt: str, rule: str = "arithmetic", **limits: Any
) -> Generation:
    mixture = make_mixture(
        rule, weights=limits.pop("weights", None), prior=limits.pop("prior", None)
    )
    request = Request(**{"max_new_tokens": 25, **limits})
    return MixtureDecoder(sources, mixture).generate(prompt, request)


def outcomes(source: Source, ids: tuple[int, ...], data: bytes) -> dict[int, float]:
    """What a source says of the next token, by hand: only those that may follow, summing to 1."""
    (answer,) = source.backend.distributions([Query(ids)])
    allowed = {}
    for token, log_prob in enumerate(answer.log_probs[0]):
        piece = source.tokenizer.piece(token)
        if token in source.tokenizer.end_ids:
            allowed[token] = math.exp(log_prob)
        elif piece is not None:
            rest = (data + piece).decode(errors="surrogateescape")
            tail = rest.rstrip("".join(map(chr, range(0xDC80, 0xDD00))))
            broken = len(rest) > len(tail) and not _begins_a_character(rest[len(tail) :])
            if not broken and not any("\udc80" <= char <= "\udcff" for char in tail):
                allowed[token] = math.exp(log_prob)
    total = sum(allowed.values())
    return {token: p / total for token, p in allowed.items()}


@lru_cache(maxsize=1024)
def _begins_a_character(escaped: str) -> bool:
    """Whether bytes that do not decode would, with a few more."""
    raw = escaped.encode(errors="surrogateescape")
    missing = max(0, 4 - len(raw))
    for more in itertools.product((b"\x80", b"\x90", b"\xa0", b"\xbf"), repeat=missing):
        for length in range(missing + 1):
            try:
                (raw + b"".join(more[:length])).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


def mixed_by_hand(
    rule: str, said: list[dict[int, float]], weights: list[float]
) -> dict[int, float]:
    """The formulas in plain probabilities."""
    heard = [(w, row) for w, row in zip(weights, said, strict=True) if w]
    tokens = list(said[0])
    if rule == "arithmetic":
        return {t: sum(w * row[t] for w, row in heard) for t in tokens}
    if rule == "geometric":
        pooled = {t: math.prod(row[t] ** w for w, row in heard) for t in tokens}
    else:
        union = set()
        for _, row in heard:
            edge = sorted(row.values())[-4]
            union |= {t for t in tokens if row[t] >= edge}
        pooled = {
            t: sum(w * row[t] / sum(row[u] for u in union) for w, row in heard) if t in union else 0
            for t in tokens
        }
    total = sum(pooled.values())
    return {t: p / total for t, p in pooled.items()}


@settings(max_examples=15)
@given(companies(), prompts, rules, st.randoms())
def test_greedy_is_the_argmax_by_hand(
    sources: list[Source], prompt: str, rule: str, dice: random.Random
) -> None:
    raw = [dice.choice([0.0, 0.2, 1.0, 3.0]) for _ in sources]
    assume(any(raw))
    weights = [w / sum(raw) for w in raw]
    decoder = MixtureDecoder(
        sources, make_mixture(rule, weights=dict(zip([s.name for s in sources], raw, strict=True)))
    )
    state = decoder.start(prompt, Request(max_new_tokens=10))
    end = next(iter(sources[0].tokenizer.end_ids))
    data, ids = b"", sources[0].tokenizer.encode_prompt(prompt)
    while state.stop_reason is None:
        before = len(state.position)
        state, step = decoder.step(state)
        for token in (*state.position[before:], *([end] if step.ends else ())):
            text = data.decode(errors="ignore").encode()
            said = [outcomes(s, ids, data[len(text) :]) for s in sources]
            combined = mixed_by_hand(rule, said, weights)
            assert combined[token] >= max(combined.values()) * (1 - 1e-9)
            data += b"" if token == end else sources[0].tokenizer.piece(token) or b""
            ids += (token,)
    assert state.data == data
    assert state.text == data.decode(errors="ignore")


@given(companies(), prompts, rules, samplings, st.integers(1, 30))
def test_invariants(
    sources: list[Source], prompt: str, rule: str, sampling: Sampling, limit: int
) -> None:
    decoder = MixtureDecoder(sources, make_mixture(rule))
    state = decoder.start(prompt, Request(max_new_tokens=limit, sampling=sampling))
    steps = []
    while state.stop_reason is None:
        before = state
        state, step = decoder.step(state)
        steps.append(step)
        assert step.segment or state.stop_reason is not None
        assert state.text == before.text + step.segment
        assert len(before.position) < limit  # a character that has begun is finished
        assert not step.contested
        assert str(said([decoder.step(decoder.branch(before))[1]])) == str(said([step]))
        for candidate in step.candidates:
            assert candidate.text == step.segment
            assert sum(candidate.num_tokens) <= len(sources) * (len(state.position))
            known = candidate.log_likelihoods or ()
            assert all(x <= 1e-9 or math.isnan(x) for x in known)
            assert known or not sampling.is_greedy
            assert candidate.cost is None or candidate.cost >= -1e-9
    result = decoder.finish(state, steps)
    assert result.text == state.text == "".join(step.text for step in steps)
    assert "\ufffd" not in result.text
    assert result.stop_reason in (StopReason.END, StopReason.LENGTH)
    assert (result.stop_reason is StopReason.END) == steps[-1].ends
    streamed = list(decoder.stream(prompt, Request(max_new_tokens=limit, sampling=sampling)))
    assert str(said(streamed)) == str(said(steps))


@given(st.sampled_from(FAMILIES), prompts, rules, st.integers(1, 3), st.integers(1, 40))
def test_a_source_mixed_with_itself_is_that_source(
    family: str, prompt: str, rule: str, times: int, limit: int
) -> None:
    source = own("one", family, (0, 1, 2, 3, 4))
    prefix = source.tokenizer.encode_prompt(prompt)
    drafted: tuple[int, ...] = ()
    written, ended = b"", False
    while (
        len(drafted) < limit or written.decode(errors="ignore").encode() != written
    ) and not ended:
        picked = source.backend.draft([Query(prefix + drafted)], 1)[0].picks[0]
        ended = picked in source.tokenizer.end_ids
        drafted += () if ended else (picked,)
        written += b"" if ended else source.tokenizer.piece(picked) or b"?"
    copies = [replace(source, name=f"copy {k}") for k in range(times)]
    result = run(copies, prompt, rule, max_new_tokens=limit)
    assert result.text == written.decode(errors="ignore")
    assert (result.stop_reason is StopReason.END) == ended
    assert all(len(step.drafters) == times for step in result.steps if step.segment)


@given(companies(min_size=2), prompts, rules, samplings)
def test_all_weight_on_the_first_is_the_first(
    sources: list[Source], prompt: str, rule: str, sampling: Sampling
) -> None:
    weights = {source.name: float(not k) for k, source in enumerate(sources)}
    together = run(sources, prompt, rule, weights=weights, sampling=sampling)
    alone = run(sources[:1], prompt, rule, sampling=sampling)
    assert (together.text, together.stop_reason) == (alone.text, alone.stop_reason)
    assert all(usage.num_passes == 0 for step in together.steps for usage in step.usage[1:])


@given(companies(min_size=2), prompts, rules, st.randoms())
def test_the_order_of_sources_does_not_matter(
    sources: list[Source], prompt: str, rule: str, dice: random.Random
) -> None:
    shuffled = dice.sample(sources, len(sources))
    first, second = run(sources, prompt, rule), run(shuffled, prompt, rule)
    for one, other in zip(first.steps, second.steps, strict=False):
        if one.segment != other.segment:  # only where two tokens are equally likely
            assert one.candidates[0].cost == pytest.approx(other.candidates[0].cost, abs=1e-9)
            return
        mine = dict(zip(one.sources, one.candidates[0].log_likelihoods, strict=True))
        theirs = dict(zip(other.sources, other.candidates[0].log_likelihoods, strict=True))
        assert mine == pytest.approx(theirs)
        assert set(one.drafters) == set(other.drafters)
    assert first.text == second.text


@settings(max_examples=15)
@given(companies(), rules, samplings, st.integers(1, 5), st.sampled_from([None, "prompt"]))
def test_a_batch_is_its_rows(
    sources: list[Source], rule: str, sampling: Sampling, max_rows: int, prior: str | None
) -> None:
    decoder = MixtureDecoder(sources, make_mixture(rule, prior=prior))
    request = Request(max_new_tokens=16, sampling=sampling)
    together = decoder.generate_batch(PROMPTS, request, max_rows=max_rows)
    for prompt, result in zip(PROMPTS, together, strict=True):
        alone = decoder.generate(prompt, request)
        assert (result.text, result.stop_reason) == (alone.text, alone.stop_reason)
        assert str(said(result.steps)) == str(said(alone.steps))


@given(companies(), prompts, rules, st.lists(st.sampled_from(["a", " ", ".\n", "Tom", "n A"])))
def test_stop_strings(sources: list[Source], prompt: str, rule: str, stop: list[str]) -> None:
    free = run(sources, prompt, rule)
    stopped = run(sources, prompt, rule, stop=tuple(stop))
    assert not any(string in stopped.text for string in stop)
    assert free.text.startswith(stopped.text)
    if any(string in free.text for string in stop):
        assert stopped.stop_reason is StopReason.STOP_STRING
        assert free.text.startswith(stopped.text + (stopped.stop_string or "?"))
    else:
        assert (stopped.text, stopped.stop_reason) == (free.text, free.stop_reason)


# The shortcut and its slow twin


@given(companies(min_size=2), prompts, samplings, st.randoms())
def test_the_shortcut_is_exact(
    sources: list[Source], prompt: str, sampling: Sampling, dice: random.Random
) -> None:
    """Every way to draw a source and then its token, added up: the slow twin's distribution."""
    sampling = replace(sampling, temperature=sampling.temperature or 1.0)
    raw = [0.1 + dice.random() for _ in sources]
    weights = [w / sum(raw) for w in raw]
    vocabulary = vocabulary_of(sources[0])
    rows = []
    for source in sources:
        query = Query(source.tokenizer.encode_prompt(prompt))
        (answer,) = source.backend.distributions([query])
        rows.append(filtered(vocabulary.outcomes(answer.log_probs[0], b""), sampling))
    drawn: Counter[int] = Counter()
    for weight, row in zip(weights, rows, strict=True):
        for token, log_prob in enumerate(row):
            drawn[token] += weight * math.exp(log_prob)
    slow = np.exp(Arithmetic().pool(np.array(rows), np.array(weights)))
    assert [drawn[token] for token in range(len(slow))] == pytest.approx(slow.tolist(), abs=1e-12)
    assert slow.sum() == pytest.approx(1.0)


def first_tokens(route: Any, decoder: MixtureDecoder, sampling: Sampling, num: int) -> Counter[Any]:
    """How often each first outcome is drawn, over seeds."""
    found: Counter[Any] = Counter()
    for seed in range(num):
        request = Request(max_new_tokens=8, sampling=replace(sampling, seed=seed))
        continuation = decoder.run(route.walk(decoder.start("Tom has", request)))
        found["end" if continuation.ends else continuation.position] += 1
    return found


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.5, 5), Sampling(1.2, 0, 0.7)])
def test_both_ways_draw_from_the_mixture(sampling: Sampling) -> None:
    sources = [own("one", "byte_bpe", (0, 1), 2), own("two", "byte_bpe", (2, 3), 2)]
    decoder = MixtureDecoder(sources, Mixture(weights={"one": 3, "two": 1}))
    assert isinstance(decoder.route, DrawnTokenRoute)
    slow = TokenRoute(sources, Arithmetic())
    num = 1500
    drawn = [first_tokens(route, decoder, sampling, num) for route in (decoder.route, slow)]
    rows = []
    for source in sources:
        ids = source.tokenizer.encode_prompt("Tom has")
        (answer,) = source.backend.distributions([Query(ids)])
        rows.append(filtered(slow.vocabulary.outcomes(answer.log_probs[0], b""), sampling))
    exact = np.exp(Arithmetic().pool(np.array(rows), np.array([0.75, 0.25])))
    for found in drawn:
        counts = [
            found["end" if token == slow.vocabulary.end else (token,)]
            for token in range(len(exact))
        ]
        assert sum(counts) == num
        assert not any(count for count, p in zip(counts, exact, strict=True) if p < 1e-12)
        common = exact >= 5 / num
        seen = [*np.array(counts)[common], np.array(counts)[~common].sum()]
        wanted = num * np.array([*exact[common], exact[~common].sum()])
        parts = [(s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True) if w > 0]
        degrees = max(1, len(parts) - 1)
        assert sum(parts) < degrees + 4 * math.sqrt(2 * degrees) + 8


def test_the_shortcut_asks_one_source_a_step() -> None:
    sources = [own("one", "byte_bpe", (0, 1)), own("two", "byte_bpe", (2, 3))]
    result = run(sources, "Tom has", sampling=Sampling(1.0, seed=4), max_new_tokens=40)
    tokens = sum(usage.num_scored for step in result.steps for usage in step.usage)
    assert tokens <= 41
    assert {name for step in result.steps for name in step.drafters} == {"one", "two"}
    assert all(len(step.drafters) <= 1 for step in result.steps)


def test_a_sample_of_one_source_is_its_own() -> None:
    source = own("one", "byte_bpe", (0, 1, 2, 3, 4), 2)
    sampling = Sampling(0.9, 10, 0.9, 3)
    request = Request(max_new_tokens=20, sampling=sampling)
    state = MixtureDecoder([source]).start("Tom has", request)
    decoder = MixtureDecoder([source])
    while state.stop_reason is None:
        state, _ = decoder.step(state)
    from coolfusion.decoding.request import sampling_of

    prefix = source.tokenizer.encode_prompt("Tom has")
    query = Query(prefix, sampling=sampling_of(request, "one"))
    (drafted,) = source.backend.draft([query], len(state.position))
    assert drafted.picks == state.position


# What goes wrong


class Losing(Failing):
    """A backend whose distributions fail after a number of calls."""

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        return self._spend(self.inner.distributions(queries))


class Numb:
    """A backend whose distributions are not numbers."""

    def __init__(self, source: Source) -> None:
        self.inner, self.vocab_size, self.context_length = (
            source.backend,
            source.backend.vocab_size,
            None,
        )
        self.score, self.draft = self.inner.score, self.inner.draft

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        good = self.inner.distributions(queries)
        return [replace(each, log_probs=np.full_like(each.log_probs, np.nan)) for each in good]


@given(companies(min_size=2), prompts, rules, samplings, st.integers(0, 30))
def test_a_failing_source_is_dropped(
    sources: list[Source], prompt: str, rule: str, sampling: Sampling, after: int
) -> None:
    broken = replace(sources[0], backend=Losing(sources[0], after, RuntimeError("out of memory")))
    result = run([broken, *sources[1:]], prompt, rule, sampling=sampling)
    intact = run(sources, prompt, rule, sampling=sampling)
    dropped = [step.index for step in result.steps if step.dropped]
    if not dropped:
        assert result.text == intact.text
        return
    (index,) = dropped
    assert "out of memory" in result.warnings[0]
    assert str(said(result.steps[:index])) == str(said(intact.steps[:index]))
    assert all(broken.name not in step.sources for step in result.steps[index + 1 :])
    assert result.stop_reason in (StopReason.END, StopReason.LENGTH)


def test_nan_is_a_failure_with_its_name() -> None:
    sources = [own("one", "byte_bpe", (0, 1)), own("two", "byte_bpe", (2, 3))]
    numb = replace(sources[1], backend=Numb(sources[1]))
    result = run([sources[0], numb], "Tom has")
    assert result.text == run(sources[:1], "Tom has").text
    assert "NaN or infinity" in result.warnings[0]
    alone = run([numb], "Tom has")
    assert (alone.text, alone.stop_reason) == ("", StopReason.SOURCES_FAILED)
    with pytest.raises(NonFiniteError, match=r'"two".*NaN or infinity') as caught:
        run([sources[0], numb], "Tom has", on_source_error="raise")
    assert caught.value.generation is not None


@given(prompts, st.integers(0, 12), samplings)
def test_failures_are_raised_where_asked(prompt: str, after: int, sampling: Sampling) -> None:
    source = own("one", "byte_bpe", (0, 1, 2, 3, 4))
    broken = replace(source, backend=Losing(source, after, RuntimeError("out of memory")))
    whole = run([source], prompt, sampling=sampling)
    failure = None
    try:
        result = run([broken], prompt, sampling=sampling, on_source_error="raise")
    except SourceError as error:
        failure = error
    if failure is None:
        assert result.text == whole.text
    else:
        assert "out of memory" in str(failure)
        assert whole.text.startswith(failure.generation.text)


@given(prompts, st.integers(1, 20))
def test_a_source_without_room_leaves_the_others_to_finish(prompt: str, room: int) -> None:
    wide = own("wide", "bytes", (0, 3))
    context = len(prompt.encode()) + room
    (end,) = wide.tokenizer.end_ids
    ids = [(*wide.tokenizer.encode_prompt(STORIES[2]), end)]
    small = NgramBackend(ids, wide.backend.vocab_size, context_length=context)
    narrow = Source("narrow", wide.tokenizer, small)
    result = run([narrow, wide], prompt, max_new_tokens=60)
    assert result.stop_reason is not StopReason.CONTEXT_LENGTH
    dropped = [gone for step in result.steps for gone in step.dropped]
    assert [gone.source for gone in dropped] in ([], ["narrow"])
    assert all("context window" in gone.reason for gone in dropped)
    alone = run([narrow], prompt, max_new_tokens=60)
    assert alone.stop_reason in (StopReason.CONTEXT_LENGTH, StopReason.END)
    assert len(alone.text.encode()) <= room


def test_sources_without_a_common_outcome_end_the_response() -> None:
    class Sure:
        """A backend that is certain of one token."""

        vocab_size, context_length = 3, None

        def __init__(self, token: int) -> None:
            self.token = token

        def score(self, queries: Sequence[Query]) -> list[Any]:
            raise AssertionError("a mixture asks for distributions")

        draft = score

        def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
            row = np.full((1, 3), -np.inf)
            row[0, self.token] = 0.0
            return [Distributions(row, 1, 1) for _ in queries]

    class Letters:
        """Two letters and an end."""

        end_ids = frozenset([2])

        def encode(self, text: str) -> tuple[int, ...]:
            return tuple("ab".index(char) for char in text if char in "ab")

        def piece(self, token: int) -> bytes | None:
            return [b"a", b"b", None][token] if token < 3 else None

        def encode_prompt(self, prompt: Any) -> tuple[int, ...]:
            return self.encode(prompt)

    sources = [Source(name, Letters(), Sure(token)) for token, name in enumerate("ab")]
    result = run(sources, "a", "geometric")
    assert (result.text, result.stop_reason) == ("", StopReason.NO_DRAFT)
    assert "no outcome left" in result.steps[0].withdrawn[0].reason
    with pytest.raises(SourceError, match="no outcome left"):
        run(sources, "a", "geometric", on_source_error="raise")
    assert run(sources, "a", max_new_tokens=3).text == "aaa"


@pytest.mark.parametrize("family", FAMILIES)
def test_vocabularies_are_told_apart(family: str) -> None:
    one, two = own("one", family, (0, 1)), own("two", family, (2,))
    assert vocabulary_difference([one, two, one]) is None
    padded = NgramBackend([[1, 2]], one.backend.vocab_size + 7)
    assert vocabulary_difference([one, replace(two, backend=padded)]) is None
    assert MixtureDecoder([one, replace(two, backend=padded)]).generate("Tom").text
    cut = NgramBackend([[1, 2]], one.backend.vocab_size - 9)
    assert "known to only one" in str(vocabulary_difference([one, replace(two, backend=cut)]))
    raw = toy_tokenizer(STORIES, family=family, vocab_size=300)
    ends = one.tokenizer.end_ids
    first, twin, other_end = (
        replace(one, name=str(ids), tokenizer=HuggingFaceTokenizer(raw, end_ids=ids))
        for ids in (ends, [*ends], [*ends, 5])
    )
    assert vocabulary_difference([first, twin]) is None
    assert "end with" in str(vocabulary_difference([first, other_end]))
    stranger = toy_source("three", STORIES, family=next(f for f in FAMILIES if f != family))
    assert "token" in str(vocabulary_difference([one, stranger]))


def test_what_cannot_be_mixed_is_refused() -> None:
    one, other = own("one", "byte_bpe", (0, 1)), own("two", "byte_bpe", (2,))
    stranger = toy_source("stranger", STORIES, family="characters")
    with pytest.raises(
        UsageError, match='"two" cannot be mixed: its backend, Failing, gives no whole'
    ):
        MixtureDecoder([one, replace(other, backend=Failing(other, 1, ValueError()))])

    class Lossy:
        """A tokenizer that says what it loses."""

        losses = ("capital letters ('A' became 'a')",)

        def __getattr__(self, name: str) -> Any:
            return getattr(other.tokenizer, name)

    with pytest.raises(UsageError, match="loses capital letters"):
        MixtureDecoder([one, replace(other, tokenizer=Lossy())])
    with pytest.raises(UsageError, match=r'no vocabulary: token .* to "one" and "stranger"'):
        MixtureDecoder([one, stranger], make_mixture(route="tokens"))
    with pytest.raises(UsageError, match="top_k_union is a rule for tokens"):
        make_mixture("top_k_union", route="bytes")
    with pytest.raises(UsageError, match='no route "words"'):
        make_mixture(route="words")
    with pytest.raises(UsageError, match='no weight for source "two"'):
        MixtureDecoder([one, other], Mixture(weights={"one": 1}))
    with pytest.raises(UsageError, match='weight for "three", but no such source'):
        MixtureDecoder([one, other], Mixture(weights={"one": 1, "two": 1, "three": 1}))
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match=r'weight of source "one" is (-1.0|nan|inf)'):
            Mixture(weights={"one": weight})
    with pytest.raises(UsageError, match="all 0"):
        Mixture(weights={"one": 0, "two": 0})
    with pytest.raises(UsageError, match="max_segment_tokens is 3"):
        MixtureDecoder([one]).start("Tom", Request(max_segment_tokens=3))
    with pytest.raises(PromptError, match="empty"):
        MixtureDecoder([one]).generate("")
    with pytest.raises(UsageError, match="distinct names"):
        MixtureDecoder([one, one])


# Weights, traces, other vocabularies, trained models


def test_weights_from_the_prompt() -> None:
    tom = own("tom", "byte_bpe", (0,))
    cat = own("cat", "byte_bpe", (2,))
    decoder = MixtureDecoder([tom, cat], make_mixture(prior="prompt(0.2)"))
    state = decoder.start("Tom has 3 apples. He eats", Request(max_new_tokens=10))
    assert state.log_weights == ()
    after, step = decoder.step(state)
    assert np.exp(after.log_weights).sum() == pytest.approx(1.0)
    assert np.exp(after.log_weights)[0] > 0.9
    assert all(usage.num_scored > 1 for usage in step.usage)
    tilted = make_mixture(prior="prompt(0.2)", weights={"tom": 0.0, "cat": 2.0})
    other = MixtureDecoder([tom, cat], tilted)
    after, _ = other.step(other.start("Tom has 3 apples. He eats", Request(max_new_tokens=10)))
    assert np.exp(after.log_weights).tolist() == [0.0, 1.0]


def test_a_source_that_fails_at_the_prompt_is_dropped() -> None:
    tom, cat = own("tom", "byte_bpe", (0,)), own("cat", "byte_bpe", (2,))
    broken = replace(cat, backend=Losing(cat, 0, RuntimeError("gone")))
    result = run([tom, broken], "Tom has 3", prior="prompt")
    assert result.text == run([tom], "Tom has 3").text
    assert result.warnings == ('Source "cat" was dropped at step 0: RuntimeError: gone',)


@given(companies(min_size=2), prompts, rules, samplings)
def test_traces_are_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    sources: list[Source],
    prompt: str,
    rule: str,
    sampling: Sampling,
) -> None:
    path = tmp_path_factory.mktemp("traces") / "trace.jsonl"
    result = run(sources, prompt, rule, sampling=sampling, max_new_tokens=8)
    write_trace(path, [result], prompt)
    assert str(read_trace(path)) == str([result])


@given(st.lists(st.sampled_from(FAMILIES), min_size=2, max_size=3, unique=True), prompts, samplings)
def test_unite_is_for_comparison_and_keeps_its_promises(
    families: list[str], prompt: str, sampling: Sampling
) -> None:
    sources = [
        toy_source(family, STORIES[:3] if k else STORIES[1:], family=family)
        for k, family in enumerate(families)
    ]
    decoder = MixtureDecoder(sources, make_mixture("top_k_union(5)"))
    assert isinstance(decoder.route, UnionRoute)
    request = Request(max_new_tokens=20, sampling=sampling)
    result = decoder.generate(prompt, request)
    assert "\ufffd" not in result.text
    assert result.stop_reason in (StopReason.END, StopReason.LENGTH)
    lengths = [len(source.tokenizer.encode(result.text)) for source in sources]
    assert (min(lengths) >= 20) == (result.stop_reason is StopReason.LENGTH)
    (again,) = decoder.generate_batch([prompt], request)
    assert again.text == result.text
    shuffled = MixtureDecoder(sources[::-1], make_mixture("top_k_union(5)")).generate(
        prompt, request
    )
    assert abs(len(shuffled.text) - len(result.text)) <= 1000
    for step in result.steps:
        assert all(x <= 1e-9 for c in step.candidates for x in c.log_likelihoods)


def test_unite_by_hand() -> None:
    """A string that one source lacks counts there as the first token of its encoding."""
    texts = ["ab ab ab ab ab."]
    long = toy_source("long", texts, family="byte_bpe", order=2)
    short = toy_source("short", texts, family="bytes", order=2)
    decoder = MixtureDecoder([long, short], make_mixture("top_k_union(2)"))
    state = decoder.start("ab", Request(max_new_tokens=4))
    continuation = decoder.run(decoder.route.walk(state))
    rows = []
    for source in (long, short):
        ids = source.tokenizer.encode_prompt("ab")
        (answer,) = source.backend.distributions([Query(ids)])
        vocabulary = Vocabulary(source.tokenizer, source.backend.vocab_size)
        rows.append(np.exp(vocabulary.outcomes(answer.log_probs[0], b"")))
    pieces = [
        [b"" if t in s.tokenizer.end_ids else s.tokenizer.piece(t) or b"?" for t in range(len(row))]
        for s, row in zip((long, short), rows, strict=True)
    ]
    named: dict[bytes, list[float]] = {}
    for strings, row in zip(pieces, rows, strict=True):
        whole = [
            t
            for t, string in enumerate(strings)
            if string.decode(errors="ignore").encode() == string
        ]
        edge = sorted(row[whole])[-2]
        named.update((strings[t], []) for t in whole if row[t] >= edge)
    assert any(string not in pieces[1] for string in named)
    for string, shares in named.items():
        for source, strings, row in zip((long, short), pieces, rows, strict=True):
            known = string in strings
            token = strings.index(string) if known else source.tokenizer.encode(string.decode())[0]
            shares.append(row[token])
    totals = [sum(shares[k] for shares in named.values()) for k in range(2)]
    means = {s: sum(p / t for p, t in zip(v, totals, strict=True)) / 2 for s, v in named.items()}
    assert means[continuation.data] == pytest.approx(max(means.values()))
    assert math.exp(continuation.log_mixture) == pytest.approx(means[continuation.data])


@pytest.fixture(scope="module")
def trained() -> tuple[Source, Callable[[str], str], Path]:
    """A built-in source, and what ``transformers`` itself generates from it."""
    import torch
    import transformers

    from coolfusion.backends.huggingface import load_source

    path = builtin_paths()[0]
    source = load_source(path, "sums")
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def generated(prompt: str, num_tokens: int) -> str:
        ids = torch.tensor([source.tokenizer.encode_prompt(prompt)])
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=sorted(source.tokenizer.end_ids),
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        pieces = [
            source.tokenizer.piece(t) or b"" for t in found if t not in source.tokenizer.end_ids
        ]
        return b"".join(pieces).decode(errors="ignore")

    return source, generated, path


@pytest.mark.parametrize(
    "prompt", ["Question: Mia has 14 plums.", "The answer", "Tom has 3 jars and"]
)
def test_a_trained_model_with_itself_is_its_own_generate(trained: Any, prompt: str) -> None:
    source, generated, _ = trained
    wanted = generated(prompt, 30)
    copies = [replace(source, name=name) for name in "abc"]
    for rule in RULES:
        for sources in (copies[:1], copies):
            result = run(sources, prompt, rule, max_new_tokens=30)
            assert result.text == wanted
    fused = SegmentDecoder([source]).generate(prompt, Request(max_new_tokens=30))
    assert fused.text.startswith(wanted[:10])


def test_trained_models_in_a_batch(trained: Any) -> None:
    source, _, _ = trained
    other = replace(source, name="again")
    decoder = MixtureDecoder([source, other])
    questions = ["Question: Mia has 14 plums.", "Tom", "The answer is"]
    for sampling in (Sampling(), Sampling(0.8, 0, 0.9, 7)):
        request = Request(max_new_tokens=16, sampling=sampling)
        together = decoder.generate_batch(questions, request)
        alone = [decoder.generate(question, request) for question in questions]
        assert [each.text for each in together] == [each.text for each in alone]
