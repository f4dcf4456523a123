"""What rerankers promise for every score table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coolfusion import Recipe, Request, SegmentDecoder
from coolfusion.decoding.notation import parse
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.decoding.segments.rerankers import (
    COMPOSED,
    NOTATION,
    PRIOR_TOKENS,
    RERANKERS,
    Reranker,
    ScoreTable,
    Tally,
    bits_per_byte,
    calibrated,
    lead,
    leave_one_out,
    mean_nll,
    mean_perplexity,
    mixture,
    reranker_named,
    weighted,
    weights_named,
    without_outliers,
)
from coolfusion.errors import UsageError
from coolfusion.testing import check_reranker
from tests.decoding.segments.test_decoder import PROMPTS, toy
from tests.strategies import score_tables


@pytest.mark.parametrize("name", RERANKERS)
@given(table=score_tables(), seed=st.integers(0, 999))
def test_symmetry(name: str, table: ScoreTable, seed: int) -> None:
    noise = np.random.default_rng(seed)
    rows = noise.permutation(len(table.num_bytes))
    columns = noise.permutation(len(table.sources))
    permuted = replace(
        table,
        log_likelihoods=table.log_likelihoods[rows][:, columns],
        num_tokens=table.num_tokens[rows][:, columns],
        num_bytes=table.num_bytes[rows],
    )
    expected = RERANKERS[name](table)[rows]
    np.testing.assert_allclose(RERANKERS[name](permuted), expected, rtol=1e-9)


@pytest.mark.parametrize("name", RERANKERS)
@given(table=score_tables(), factor=st.floats(0.0, 1.0), row=st.integers(0, 1))
def test_a_likelier_candidate_never_costs_more(
    name: str, table: ScoreTable, factor: float, row: int
) -> None:
    raised = table.log_likelihoods.copy()
    raised[row] *= factor
    before = RERANKERS[name](table)
    after = RERANKERS[name](replace(table, log_likelihoods=raised))
    assert after[row] <= before[row] + 1e-9
    others = [c for c in range(len(before)) if c != row]
    np.testing.assert_array_equal(before[others], after[others])


@given(score_tables())
def test_one_source_alone_judges_by_its_own_scores(table: ScoreTable) -> None:
    alone = replace(
        table,
        sources=table.sources[:1],
        log_likelihoods=table.log_likelihoods[:, :1],
        num_tokens=table.num_tokens[:, :1],
        weights=np.ones(1),
    )
    nll = -alone.log_likelihoods[:, 0] / alone.num_tokens[:, 0]
    np.testing.assert_allclose(mean_nll(alone), nll)
    np.testing.assert_allclose(lead("a")(table), nll)
    np.testing.assert_allclose(mean_perplexity(alone), np.exp(nll))
    np.testing.assert_allclose(mixture(alone), -alone.log_likelihoods[:, 0])
    bits = -alone.log_likelihoods[:, 0] / alone.num_bytes / np.log(2)
    np.testing.assert_allclose(bits_per_byte(alone), bits)


@given(score_tables())
def test_arithmetic_means_are_at_least_geometric_ones(table: ScoreTable) -> None:
    assert (np.log(mean_perplexity(table)) >= mean_nll(table) - 1e-9).all()


@pytest.mark.parametrize("name", RERANKERS)
@given(table=score_tables(), scale=st.floats(0.1, 50.0))
def test_weights_are_relative(name: str, table: ScoreTable, scale: float) -> None:
    equal = weighted(RERANKERS[name], dict.fromkeys(table.sources, scale))
    np.testing.assert_allclose(equal(table), RERANKERS[name](table), rtol=1e-9)


@given(score_tables(), st.floats(20.0, 1000.0))
def test_a_lost_source_is_not_heard(table: ScoreTable, nll: float) -> None:
    own, tokens = table.log_likelihoods[:, :1], table.num_tokens[:, :1]
    best = float((-own / tokens).min())
    agreeing = replace(
        table,
        sources=("a", "b"),
        log_likelihoods=np.hstack([own, own]),
        num_tokens=np.hstack([tokens, tokens]),
        weights=np.full(2, 1 / 2),
    )
    joined = replace(
        agreeing,
        sources=("a", "b", "lost"),
        log_likelihoods=np.hstack([own, own, -(best + nll) * tokens]),
        num_tokens=np.hstack([tokens, tokens, tokens]),
        weights=np.full(3, 1 / 3),
    )
    filtered = without_outliers(mean_nll)
    np.testing.assert_allclose(filtered(joined), mean_nll(agreeing))


def table_of(
    nll: list[list[float]], num_tokens: list[list[float]] | None = None, **more: object
) -> ScoreTable:
    """Costs per token (candidates, sources) of candidates of 10 bytes; one token, equal weights."""
    num_candidates, num_sources = np.shape(nll)
    tokens = np.array(num_tokens or np.ones((num_candidates, num_sources)))
    table = ScoreTable(
        tuple("abcd"[:num_sources]),
        -np.array(nll) * tokens,
        tokens,
        np.full(num_candidates, 10.0),
        np.full(num_sources, 1 / num_sources),
    )
    return replace(table, **more)


def test_rerankers_by_hand() -> None:
    table = table_of([[np.log(2), np.log(8)]], [[2.0, 3.0]], weights=np.array([0.25, 0.75]))
    # Probabilities of 1/4 and 1/512, weighted 1 to 3.
    assert mean_perplexity(table) == pytest.approx([0.25 * 2 + 0.75 * 8])
    assert mean_nll(table) == pytest.approx([(0.25 + 0.75 * 3) * np.log(2)])
    assert bits_per_byte(table) == pytest.approx([(0.25 * 2 + 0.75 * 9) / 10])
    assert mixture(table) == pytest.approx([-np.log(0.25 / 4 + 0.75 / 512)])


def test_a_source_is_lost_by_its_favourite_and_the_median_source() -> None:
    """A ratio of 10 allows 2.303 nats more than the median source needs, not than the mean."""
    filtered = without_outliers(mean_nll)
    assert filtered(table_of([[1.0, 1.0, 4.0]])) == pytest.approx([1.0])
    assert filtered(table_of([[1.0, 1.0, 3.2]])) == pytest.approx([5.2 / 3])
    # Two sources far from a third: the median is theirs, and nobody is lost.
    assert filtered(table_of([[1.0, 4.0, 4.0]])) == pytest.approx([3.0])
    # It is not lost that finds one candidate no worse than others do.
    table = table_of([[1.0, 1.0, 9.0], [2.0, 2.0, 3.0]])
    np.testing.assert_allclose(filtered(table), [11 / 3, 7 / 3])
    assert without_outliers(mean_nll, 3.0)(table_of([[1.0, 1.0, 2.2]])) == pytest.approx([1.0])


def test_calibration_by_hand() -> None:
    """With the prior, a has taken 16 nats and 16 tokens, b 32 nats and 48 tokens."""
    table = table_of(
        [[3.0, 2.0]], [[1.0, 3.0]], tallies=(Tally(-8.0, 8), Tally(-24.0, 40)), weights=np.ones(2)
    )
    even = replace(table, weights=np.array([0.5, 0.5]))
    # In units of means of 24 nats and 32 tokens: 4.5 nats, 2 tokens; 4.5 nats, 2 tokens.
    assert calibrated(mean_nll)(even) == pytest.approx([0.5 * 4.5 / 2 + 0.5 * 4.5 / 2])
    assert calibrated(bits_per_byte)(even) == pytest.approx([4.5 / 10 / np.log(2)])
    # b counts three times as much: means of 28 nats and 40 tokens.
    uneven = replace(table, weights=np.array([0.25, 0.75]))
    a, b = 3 * (28 / 16) / (40 / 16), 6 * (28 / 32) / (3 * 40 / 48)
    assert calibrated(mean_nll)(uneven) == pytest.approx([0.25 * a + 0.75 * b])
    # Likelihoods above those of a prior of 8 nats do not turn the sign: one nat is the least.
    sure = replace(even, tallies=(Tally(9.0, 0), Tally(-8.0, 0)))
    assert calibrated(bits_per_byte)(sure) == pytest.approx(
        [(3 * 8.5 / 1 + 6 * 8.5 / 16) / 2 / 10 / np.log(2)]
    )


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": -1.0}, {"a": float("nan")}])
def test_useless_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="positive"):
        weighted(mean_nll, weights)


GUARDED = [
    *(guard(reranker) for guard in COMPOSED.values() for reranker in RERANKERS.values()),
    leave_one_out(calibrated(bits_per_byte)),
    calibrated(leave_one_out(mean_perplexity)),
    weighted(leave_one_out(mean_nll), {"one": 1.0, "two": 2.0, "three": 0.5}),
    leave_one_out(lead("two")),
    calibrated(lead("gone")),
]


@pytest.mark.parametrize("reranker", GUARDED)
def test_guards_obey_the_laws(reranker: Reranker) -> None:
    check_reranker(reranker)


def test_guards_around_the_outlier_filter() -> None:
    check_reranker(leave_one_out(without_outliers(mean_nll, 3.0)), monotone=False)
    check_reranker(without_outliers(calibrated(leave_one_out(mean_nll))), monotone=False)


@given(score_tables(), st.integers(0, 999))
def test_nobody_scores_their_own_draft(table: ScoreTable, seed: int) -> None:
    drafted = np.random.default_rng(seed).random(table.num_tokens.shape) < 0.4
    asked = replace(table, drafted=drafted)
    nll = -table.log_likelihoods / table.num_tokens
    others = np.where(drafted.all(axis=1, keepdims=True), True, ~drafted)
    expected = (nll * others).sum(axis=1) / others.sum(axis=1)
    np.testing.assert_allclose(leave_one_out(mean_nll)(asked), expected)
    # What a source says of its own draft is not even looked at.
    boasting = replace(asked, log_likelihoods=np.where(others, table.log_likelihoods, -1e-9))
    np.testing.assert_allclose(leave_one_out(mean_nll)(boasting), expected)
    np.testing.assert_array_equal(leave_one_out(mean_nll)(table), mean_nll(table))


@given(score_tables(), st.integers(0, 999), st.floats(0.05, 20.0))
def test_calibration_takes_a_source_s_own_level_away(
    table: ScoreTable, seed: int, factor: float
) -> None:
    noise = np.random.default_rng(seed)
    nats = noise.uniform(1, 300, len(table.sources))
    tokens = noise.integers(1, 90, len(table.sources))
    calm = replace(
        table, tallies=tuple(Tally(-x, int(n)) for x, n in zip(nats, tokens, strict=True))
    )
    # A source that finds everything ``factor`` times as surprising, now and before.
    scale = np.ones(len(table.sources))
    scale[0] = factor
    assume(((nats + PRIOR_TOKENS) * scale >= 1).all())  # less than a nat in all counts as one
    upset = replace(
        table,
        log_likelihoods=table.log_likelihoods * scale,
        tallies=tuple(
            Tally(PRIOR_TOKENS - (x + PRIOR_TOKENS) * s, int(n))
            for x, n, s in zip(nats, tokens, scale, strict=True)
        ),
    )
    for reranker in (mean_nll, bits_per_byte):
        before, after = calibrated(reranker)(calm), calibrated(reranker)(upset)
        # Costs keep their unit, that of the mean source, and nothing but their unit changes.
        np.testing.assert_allclose(after / after.sum(), before / before.sum())
    np.testing.assert_array_equal(calibrated(mean_nll)(table), mean_nll(table))


@given(score_tables())
def test_calibration_of_equal_sources_changes_nothing(table: ScoreTable) -> None:
    same = replace(table, tallies=(Tally(-12.0, 9),) * len(table.sources))
    for reranker in RERANKERS.values():
        np.testing.assert_allclose(calibrated(reranker)(same), reranker(table), rtol=1e-9)


def test_tallies_are_of_what_was_committed() -> None:
    sources = [toy("one", "byte_bpe", (0, 1)), toy("two", "bytes", (1, 2, 3))]
    decoder = SegmentDecoder(sources, Recipe(reranker=leave_one_out(calibrated(mean_nll))))
    state = decoder.start(PROMPTS[0], Request(max_new_tokens=40))
    nats, tokens = np.zeros(2), np.zeros(2)
    while state.stop_reason is None:
        state, step = decoder.step(state)
        won = step.candidates[step.winner] if step.winner is not None else None
        if won and won.log_likelihoods and won.num_tokens:
            nats += won.log_likelihoods
            tokens += won.num_tokens
    assert tokens.all()
    np.testing.assert_allclose([tally.log_likelihood for tally in state.tallies], nats)
    np.testing.assert_allclose([tally.num_tokens for tally in state.tallies], tokens)


@given(score_tables(), st.floats(0.1, 10.0))
def test_learnt_weights_multiply_given_ones(table: ScoreTable, scale: float) -> None:
    given_ones = dict(zip("abcd", (1.0, 2.0, 0.5, scale), strict=True))
    learnt = np.arange(1.0, len(table.sources) + 1)
    taught = replace(table, weights=learnt / learnt.sum())
    product = {name: given_ones[name] * learnt[k] for k, name in enumerate(table.sources)}
    np.testing.assert_allclose(
        weighted(mean_nll, given_ones)(taught), weighted(mean_nll, product)(table)
    )


@given(score_tables(), st.integers(0, 999))
def test_names_are_what_they_say(table: ScoreTable, seed: int) -> None:
    drafted = np.random.default_rng(seed).random(table.num_tokens.shape) < 0.4
    table = replace(table, drafted=drafted)
    every = dict(zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True))
    for text, meant in {
        **RERANKERS,
        "lead(a)": lead("a"),
        " leave_one_out( mean_nll )": leave_one_out(mean_nll),
        "calibrated(bits_per_byte)": calibrated(bits_per_byte),
        "without_outliers(mean_nll)": without_outliers(mean_nll),
        "without_outliers(lead(b), 2.5)": without_outliers(lead("b"), 2.5),
        "weighted(mixture, a=1, b=2, c=3, d=4)": weighted(mixture, every),
        "leave_one_out(calibrated(without_outliers(mean_perplexity,3)))": leave_one_out(
            calibrated(without_outliers(mean_perplexity, 3.0))
        ),
    }.items():
        np.testing.assert_array_equal(reranker_named(text)(table), meant(table))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dice", "no reranker"),
        ("mean_nll=2", "no reranker"),
        ("calibrated(dice)", '"dice"'),
        ("mean_nll(3)", "nothing in brackets"),
        ("leave_one_out", "Write leave_one_out"),
        ("leave_one_out()", "position 15"),
        ("leave_one_out(mean_nll", "ends"),
        ("leave_one_out(mean_nll, lead(a))", "left over"),
        ("leave_one_out(mean_nll))", "its end"),
        ("lead(a, b)", "no source"),
        ("lead(lead(a))", "no source"),
        ("weighted(mean_nll)", "no weights"),
        ("weighted(mean_nll, a)", "no number"),
        ("weighted(mean_nll, a=much)", "must be a number"),
        ("weighted(mean_nll, a=-1)", "positive"),
        ("without_outliers(mean_nll, inf)", "must be a number"),
        ("without_outliers(mean_nll, 1, 2)", "left over"),
        ("without_outliers(mean_nll, 0.5)", "at least 1"),
        ("", "ends"),
        ("__import__('os')", "no reranker"),
        ("mean_nll mean_nll", "position 10"),
        ("mean_nll,", "its end"),
    ],
)
def test_what_is_no_reranker(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reranker_named(text)


@given(st.text(st.sampled_from("ab(),= 1"), max_size=12))
def test_terms_read_back(text: str) -> None:
    try:
        term = parse(text)
    except UsageError:
        return
    assert parse(str(term)) == term


def test_weights_in_a_name_are_those_of_the_end_question() -> None:
    assert weights_named("lead(a)") == ("a", {})
    assert weights_named("weighted(mean_nll, a=1, b=2)") == (None, {"a": 1.0, "b": 2.0})
    assert make_recipe(reranker="lead(a)").weights == {"a": 1.0}
    assert make_recipe(reranker="weighted(mixture, a=1, b=2)").weights == {"a": 1.0, "b": 2.0}
    with pytest.raises(UsageError, match="of its own"):
        make_recipe(reranker="weighted(mixture, a=1, b=2)", weights={"a": 1.0, "b": 1.0})
    assert all(name in NOTATION for name in (*RERANKERS, *COMPOSED))
