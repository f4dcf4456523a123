"""Numbers read from logits, by hand: filters, temperature, watched totals, and noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from coolfusion.backends.base import Query, Scores
from coolfusion.backends.huggingface.logits import charged, read_distributions, read_scores
from coolfusion.backends.sampling import Sampling
from coolfusion.errors import NonFiniteError
from tests.backends.test_sampling import KEPT, PROBS

LEVEL = 3.7  # logits are log-probabilities but for a constant


def logits_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).log() + LEVEL


def picks(samplings: list[Sampling], num_before: int = 1) -> list[int]:
    """What each of the samplings picks after ``num_before`` tokens."""
    queries = [Query((0,) * num_before, sampling=sampling) for sampling in samplings]
    return [each.picks[0] for each in read_scores(logits_of(*[PROBS] * len(queries)), queries)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "kept"), KEPT)
def test_filters_keep_what_they_should(
    temperature: float, top_k: int, top_p: float, kept: set[int]
) -> None:
    samplings = [Sampling(temperature, top_k, top_p, seed) for seed in range(400)]
    assert set(picks(samplings)) == kept


def test_the_earlier_of_equals_is_kept() -> None:
    queries = [Query((0,), sampling=Sampling(1.0, 2, 1.0, seed)) for seed in range(100)]
    found = read_scores(logits_of(*[(0.25,) * 4] * len(queries)), queries)
    assert {scores.picks[0] for scores in found} == {0, 1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature: float) -> None:
    wanted = np.array(PROBS) ** (1 / temperature)
    drawn = picks([Sampling(temperature, seed=seed) for seed in range(3000)])
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares == pytest.approx(wanted / wanted.sum(), abs=0.03)


def test_noise_is_of_the_position() -> None:
    sampling = Sampling(1.0, seed=3)
    drawn = [picks([sampling], num_before)[0] for num_before in range(1, 1001)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares == pytest.approx(PROBS, abs=0.05)
    query = Query((0,), (1,) * 30, sampling=sampling)
    (scores,) = read_scores(logits_of(*[PROBS] * 31), [query])
    assert list(scores.picks) == drawn[:31]


def test_scores_by_hand() -> None:
    one, other = (0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.1, 0.1)
    queries = [Query((0,), (2,), (0, 1)), Query((0, 0), (), (3,)), Query((0,))]
    first, second, third = read_scores(logits_of(one, other, one, other), queries)
    assert first.log_probs == pytest.approx([math.log(0.3)])
    assert first.picks == (3, 0)
    assert first.pick_log_probs == pytest.approx(np.log([0.4, 0.7]))
    assert first.watched == pytest.approx(np.log([0.3, 0.8]))
    assert (second.log_probs, second.picks) == ((), (3,))
    assert second.watched == pytest.approx([math.log(0.4)])
    assert third.watched == (-math.inf,)
    assert charged(third, 5, 2) == replace(third, num_forwarded=5, num_passes=2)


def test_a_sampled_pick_has_the_probability_the_model_gives_it() -> None:
    """Not that of the filtered and tempered distribution."""
    query = Query((0,), sampling=Sampling(0.5, 1))
    (scores,) = read_scores(logits_of(PROBS), [query])
    assert scores.picks == (3,)
    assert scores.pick_log_probs == pytest.approx([math.log(0.5)])


def test_distributions_are_normalised_and_dealt_to_their_queries() -> None:
    one, other = (0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.1, 0.1)
    found = read_distributions(logits_of(one, other, one), [Query((0,), (1,)), Query((0,))])
    np.testing.assert_allclose(found[0].log_probs, np.log([one, other]), rtol=1e-6)
    np.testing.assert_allclose(found[1].log_probs, np.log([one]), rtol=1e-6)


@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_what_is_no_distribution_is_named(damage: float) -> None:
    logits = logits_of(PROBS)
    logits[0, 2] = damage
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        read_scores(logits, [Query((0,))])
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        read_distributions(logits, [Query((0,))])


def test_rounding_makes_no_probability_above_1() -> None:
    (scores,) = read_scores(torch.tensor([[1000.0, -1000.0]]), [Query((0,), watch=(0,))])
    assert isinstance(scores, Scores)
    assert max(*scores.pick_log_probs, *scores.watched) <= 0.0
