"""Noise of its own for every source and every sample."""

from __future__ import annotations

from coolfusion import Request, Sampling
from coolfusion.decoding.request import sampling_of


def test_sources_and_samples_draw_by_noise_of_their_own() -> None:
    request = Request(sampling=Sampling(0.7, 5, 0.9, seed=3))
    drawn = [sampling_of(request, name, sample) for name in ("a", "b") for sample in range(4)]
    assert len({each.seed for each in drawn}) == 8
    assert {(each.temperature, each.top_k, each.top_p) for each in drawn} == {(0.7, 5, 0.9)}
    assert sampling_of(request, "a") == drawn[0]
    other = Request(sampling=Sampling(0.7, 5, 0.9, seed=4))
    assert sampling_of(other, "a").seed not in {each.seed for each in drawn}


def test_greedy_is_greedy_for_all() -> None:
    assert sampling_of(Request(), "a", 2) == Sampling()
