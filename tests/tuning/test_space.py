"""The space of settings, the searches through it, and the parting of rows."""

from __future__ import annotations

from typing import Any

import pytest

from coolfusion import UsageError
from coolfusion.config.options import FusionConfig
from coolfusion.evaluation import make_task
from coolfusion.search import run
from coolfusion.tuning import TuningPlan, label, make_space, propose, split_rows
from coolfusion.tuning.space import lattice

AB = ("a", "b")
EMPTY = FusionConfig()
ROWS = make_task("rows", [{"prompt": str(n), "reference": n} for n in range(11)])


def settings(space: Any, kind: str, num_trials: int | None = None) -> list[FusionConfig]:
    proposals = propose(space, kind, num_trials, 3)
    found: list[FusionConfig] = []

    def utilities(points: Any) -> list[float]:
        found.extend(map(proposals.setting_at, points))
        return [0.0] * len(points)

    run(proposals.search, utilities)
    assert len(found) <= proposals.num_trials
    return found


@pytest.mark.parametrize("held_out", [0.0, 0.01, 0.3, 0.5, 0.99])
def test_every_row_is_in_one_part(held_out: float) -> None:
    split = split_rows(ROWS, held_out, 5)
    assert split == split_rows(ROWS, held_out, 5)
    assert sorted(row.id for row in split.tuning + split.held_out) == list(range(11))
    for part in (split.tuning, split.held_out):
        assert [row.id for row in part] == sorted(row.id for row in part)
    assert len(split.held_out) == {0.0: 0, 0.01: 1, 0.3: 3, 0.5: 6, 0.99: 10}[held_out]


def test_the_parting_follows_the_seed() -> None:
    assert len({split_rows(ROWS, 0.5, seed).tuning for seed in range(5)}) == 5


def test_partings_that_leave_nothing() -> None:
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="held-out share is"):
            split_rows(ROWS, share)
    with pytest.raises(UsageError, match="cannot be tuned on and held out"):
        split_rows(ROWS.first(1))
    with pytest.raises(UsageError, match="seed is -1"):
        split_rows(ROWS, 0.5, -1)
    assert len(split_rows(ROWS.first(1), 0).tuning) == 1


def test_a_lattice_has_no_empty_part() -> None:
    assert lattice(2, 4) == ((1, 3), (2, 2), (3, 1))
    for count in range(2, 9):
        for most in (10, 1000):
            points = lattice(count, most)
            assert len(points) == len(set(points)) <= most
            assert len({sum(point) for point in points}) == 1
            assert min(map(min, points)) >= 1
    assert len(lattice(2, 10)) == 9
    assert len(lattice(3, 10)) == 10


def test_a_grid_is_walked_whole() -> None:
    vary = {"weights": (), "boundary": ("words", "lines"), "gate": ("none", "0.5", 0.9)}
    found = settings(make_space(AB, EMPTY, vary), "grid")
    assert len({label(config) for config in found}) == len(found) == 9 * 2 * 3
    assert EMPTY in found
    assert FusionConfig(boundary="lines", gate=0.5, weights={"a": 0.1, "b": 0.9}) in found
    with pytest.raises(UsageError, match="54 points, more than the 53 trials"):
        propose(make_space(AB, EMPTY, vary), "grid", 53, 0)


def test_random_search_draws_different_settings() -> None:
    found = settings(make_space(("a", "b", "c"), EMPTY), "random", 50)
    assert len({label(config) for config in found}) == 50
    assert found == settings(make_space(("a", "b", "c"), EMPTY), "random", 50)
    assert {config.boundary for config in found} == {None, "phrases(3)", "sentences"}
    assert {config.gate for config in found} == {None, 0.9}
    few = make_space(AB, EMPTY, {"boundary": ("words", "lines")})
    assert len(settings(few, "random", 50)) == 2


@pytest.mark.parametrize("num_trials", [2, 3, 7, 20, 64])
def test_a_swarm_keeps_to_its_trials(num_trials: int) -> None:
    space = make_space(AB, EMPTY, {"weights": ()}, only_weights=True)
    found = settings(space, "swarm", num_trials)
    assert 2 <= len(found) <= num_trials
    for config in found:
        assert all(weight > 0 for weight in config.weights.values())


def test_other_keys_of_the_base_stay() -> None:
    base = FusionConfig(preset="paper", hedge=0.5, boundary="lines", reranker="mixture")
    for config in settings(make_space(AB, base, {"weights": ()}), "grid"):
        assert (config.preset, config.hedge, config.boundary) == ("paper", 0.5, "lines")


def test_what_the_preset_does_anyway_is_not_said() -> None:
    vary = {"reranker": ("mean_nll", "mean_perplexity", "leave_one_out(mean_nll)")}
    found = settings(make_space(AB, EMPTY, vary), "grid")
    wanted = [None, "mean_perplexity", "leave_one_out(mean_nll)"]
    assert [config.reranker for config in found] == wanted
    found = settings(make_space(AB, FusionConfig(preset="paper"), vary), "grid")
    assert [config.reranker for config in found] == ["mean_nll", None, wanted[2]]


def test_labels_tell_settings_apart() -> None:
    assert label(EMPTY) == ""
    config = FusionConfig(reranker="mixture", gate=0.9, weights={"a": 0.25, "b": 0.75})
    assert label(config) == "reranker=mixture gate=0.9 weights=a:0.25,b:0.75"


@pytest.mark.parametrize(
    ("base", "vary", "options", "said"),
    [
        (EMPTY, {"wieghts": ()}, {}, 'no knob "wieghts". Choose from weights, reranker'),
        (EMPTY, {"weights": ("1",)}, {}, "give that knob no values"),
        (EMPTY, {"boundary": ("verses",)}, {}, 'Cannot vary boundary: There is no boundary "ver'),
        (EMPTY, {"gate": ("7",)}, {}, "Cannot vary gate: The gate's threshold is 7"),
        (EMPTY, {"boundary": ("words",)}, {}, "Nothing is varied"),
        (EMPTY, {"boundary": ("words", "words")}, {}, "Nothing is varied"),
        (FusionConfig(lead="a"), {"weights": ()}, {}, "beside a lead"),
        (EMPTY, {"gate": ()}, {"of_references": True}, "does not change the perplexity"),
        (EMPTY, {"gate": ()}, {"only_weights": True}, "A swarm moves through weights"),
        (
            FusionConfig(reranker="weighted(mean_nll, a=1, b=2)"),
            {"weights": ()},
            {},
            "has weights of its own",
        ),
    ],
)
def test_spaces_that_make_no_sense(base: FusionConfig, vary: Any, options: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_space(AB, base, vary, **options)
    assert said in str(caught.value)


def test_searches_that_make_no_sense() -> None:
    space = make_space(AB, EMPTY)
    with pytest.raises(UsageError, match=r'no search "annealing". Choose one of random, grid'):
        propose(space, "annealing", None, 0)
    with pytest.raises(UsageError, match="number of trials is 0"):
        propose(space, "random", 0, 0)
    with pytest.raises(UsageError, match="1 trials are fewer than 2 sources"):
        propose(make_space(AB, EMPTY, {"weights": ()}), "swarm", 1, 0)
    with pytest.raises(UsageError, match="nothing else"):
        propose(space, "swarm", 9, 0)
    with pytest.raises(UsageError, match="There is one source"):
        make_space(("a",), EMPTY)


@pytest.mark.parametrize(
    ("plan", "names", "said"),
    [
        (TuningPlan(num_shown=0), AB, "trials shown is 0"),
        (TuningPlan("bleu"), AB, 'no metric "bleu"'),
        (TuningPlan(), ("a", "untuned"), "name of a setting"),
        (TuningPlan(), ("a", "fusion(x)"), "name of a setting"),
        (TuningPlan(search="dice"), AB, 'no search "dice"'),
    ],
)
def test_plans_are_refused_before_anything_is_loaded(
    plan: TuningPlan, names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan.prepare(ROWS, names, EMPTY)
    assert said in str(caught.value)
