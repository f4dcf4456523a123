"""The check at the seam: honest answers pass as they are, and every lie is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.backends.answers import (
    NORMALIZED,
    ROUNDING,
    checked_distributions,
    checked_drafts,
    checked_scores,
)
from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.errors import NonFiniteError, SourceError
from tests.liars import DISTRIBUTION_LIES, LIST_LIES, SCORE_LIES, in_place

SIZE = 5
QUERY = Query((0, 1), (2,), (3,))
SCORES = Scores((-0.5,), (2, 4), (-0.5, -1.0), (-3.0, -math.inf), 2, 1)
DRAFT = Scores((-0.5,), (2,), (-0.5,), (-3.0,), 1, 1)
ROW = np.log([0.5, 0.25, 0.125, 0.0625, 0.0625])
WHOLE = Distributions(np.array([ROW, ROW[::-1]]), 2, 1)


def scored(answer: object, query: Query = QUERY) -> Any:
    return checked_scores([answer], [query], SIZE)[0]


def drafted(answer: object, num_tokens: int = 1) -> Any:
    return checked_drafts([answer], [replace(QUERY, continuation=())], num_tokens, SIZE)[0]


def whole(answer: object) -> Any:
    return checked_distributions([answer], [QUERY], SIZE)[0]


def test_what_is_proper_passes_as_it_is() -> None:
    assert scored(SCORES) is SCORES
    assert drafted(DRAFT) is DRAFT
    assert whole(WHOLE) is WHOLE
    zero = replace(SCORES, log_probs=(-math.inf,))
    assert scored(zero) is zero


@pytest.mark.parametrize("lie", SCORE_LIES)
def test_every_lie_of_scores_is_an_error(lie: str) -> None:
    assert isinstance(scored(SCORE_LIES[lie](SCORES)), SourceError)
    assert isinstance(drafted(SCORE_LIES[lie](DRAFT)), SourceError)


@pytest.mark.parametrize("lie", DISTRIBUTION_LIES)
def test_every_lie_of_distributions_is_an_error(lie: str) -> None:
    assert isinstance(whole(DISTRIBUTION_LIES[lie](WHOLE)), SourceError)


@pytest.mark.parametrize("lie", LIST_LIES)
def test_answers_that_are_not_one_for_each_are_an_error(lie: str) -> None:
    with pytest.raises(SourceError, match="answer"):
        checked_scores(LIST_LIES[lie]([SCORES]), [QUERY], SIZE)
    with pytest.raises(SourceError, match="answer"):
        checked_distributions(LIST_LIES[lie]([WHOLE]), [QUERY], SIZE)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("log_probs", 5.0, r"5\.0 in log_probs.*above 0"),
        ("log_probs", math.inf, "inf in log_probs.*infinity"),
        ("watched", math.nan, "nan in watched.*NaN"),
        ("picks", SIZE, r"id 5.*0 to 4"),
        ("picks", 2.0, r"2\.0 in picks.*integer"),
        ("pick_log_probs", -math.inf, "probability 0: pick_log_probs"),
        ("pick_log_probs", "x", "'x' in pick_log_probs.*real number"),
    ],
)
def test_errors_name_the_value(name: str, value: object, said: str) -> None:
    error = scored(in_place(name, value)(SCORES))
    with pytest.raises(SourceError, match=said):
        raise error
    if isinstance(value, float) and name != "picks":
        assert isinstance(error, NonFiniteError) is not (value == 5.0)


def test_one_liar_spoils_no_other_answer() -> None:
    found = checked_scores([SCORES, None, SCORES], [QUERY] * 3, SIZE)
    assert found[0] is found[2] is SCORES
    assert isinstance(found[1], SourceError)


@pytest.mark.parametrize("kind", [list, np.array, lambda values: torch.tensor(values).double()])
def test_numbers_of_other_libraries_become_plain(kind: Any) -> None:
    names = ("log_probs", "picks", "pick_log_probs", "watched")
    told = replace(SCORES, **{name: kind(getattr(SCORES, name)) for name in names[:1]})
    told = replace(told, pick_log_probs=kind(SCORES.pick_log_probs), picks=np.array(SCORES.picks))
    found = scored(replace(told, num_forwarded=np.int64(2)))
    assert found == SCORES
    plain = [*found.log_probs, *found.pick_log_probs, *found.watched]
    assert {type(number) for number in plain} == {float}
    assert {type(number) for number in (*found.picks, found.num_forwarded)} == {int}


def test_distributions_of_other_libraries_become_doubles() -> None:
    for rows in (WHOLE.log_probs.astype(np.float32), torch.tensor(WHOLE.log_probs)):
        found = whole(replace(WHOLE, log_probs=rows))
        assert found.log_probs.dtype == np.float64
        assert found.log_probs == pytest.approx(WHOLE.log_probs, abs=1e-6)


def test_rounding_is_no_lie() -> None:
    assert scored(in_place("log_probs", ROUNDING / 2)(SCORES)).log_probs == (0.0,)
    assert whole(replace(WHOLE, log_probs=WHOLE.log_probs + NORMALIZED / 2)) is not None
    assert isinstance(
        whole(replace(WHOLE, log_probs=WHOLE.log_probs + 2 * NORMALIZED)), SourceError
    )


def test_a_draft_may_be_longer_than_asked_for_and_never_shorter() -> None:
    longer = Scores((-0.5,) * 3, (2, 4, 1), (-0.5,) * 3, (-3.0,) * 3)
    assert drafted(longer) is longer
    for num_picks in (0, 1):
        short = Scores(
            *(
                [
                    value[:num_picks]
                    for value in (
                        longer.log_probs,
                        longer.picks,
                        longer.pick_log_probs,
                        longer.watched,
                    )
                ]
            )
        )
        assert isinstance(drafted(short, num_tokens=2), SourceError)
    assert isinstance(drafted(Scores((), (), (), ()), num_tokens=0), SourceError)


def test_nothing_watched_has_no_total() -> None:
    unwatched = replace(QUERY, watch=())
    assert isinstance(scored(SCORES, unwatched), SourceError)
    assert not isinstance(scored(replace(SCORES, watched=(-math.inf,) * 2), unwatched), SourceError)


numbers = st.one_of(
    st.sampled_from([0.0, -0.0, -math.inf, math.inf, math.nan, 5.0, 1e-9, -1.0, -1e300]),
    st.sampled_from([0, 1, -1, True, None, "1", np.float32(-1), np.int64(2), 10**400]),
)


def is_log_prob(value: object) -> bool:
    """The slow twin of the check, for one number."""
    if isinstance(value, (np.float32, np.int64)):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value <= ROUNDING


@given(st.lists(numbers, min_size=2, max_size=2), st.lists(numbers, min_size=2, max_size=2))
def test_the_quick_check_agrees_with_its_slow_twin(own: list[Any], ids: list[Any]) -> None:
    found = scored(replace(SCORES, pick_log_probs=tuple(own), picks=tuple(ids)))
    is_fine = all(is_log_prob(value) and value != -math.inf for value in own)
    is_fine &= all(
        isinstance(value, (int, np.int64)) and not isinstance(value, bool) and 0 <= value < SIZE
        for value in ids
    )
    assert isinstance(found, SourceError) is not is_fine
