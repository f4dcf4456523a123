"""Which row a text gets, by hand, and what an interrupted copy leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.cache_rows import IDLE, SPARE_ROWS, Places

SYSTEM = (1, 2, 3, 4, 5, 6)


@dataclass
class FakeCache:
    """Notes copies (from, to, tokens) instead of making them, or fails at one."""

    copies: list[tuple[int, int, int]] = field(default_factory=list)
    error: BaseException | None = None

    def copy(self, source: int, target: int, num_slots: int, num_rows: int) -> None:
        if self.error is not None:
            raise self.error
        assert max(source, target) < num_rows
        self.copies.append((source, target, num_slots))


def hold(places: Places, ids: tuple[int, ...], sequence_id: int | None) -> int:
    """A text's place, once all of it is cached."""
    (place,) = places.claim([Query(ids, sequence_id=sequence_id)])
    places.row(place).begin(ids)
    return place


def test_a_sequence_keeps_its_place_and_the_longest_unused_is_given_up() -> None:
    places = Places(FakeCache(), 2)
    assert hold(places, (1, 2), 10) == 0
    assert hold(places, (3, 4), 11) == 1
    assert hold(places, (1, 2, 5), 10) == 0
    assert hold(places, (6, 7), 12) == 1  # that of sequence 11, unused for longer
    assert hold(places, (3, 4), 11) == 0  # sequence 10's
    assert len(places) == 2
    assert places.row(0).num_cached((3, 4)) == 2
    assert places.row(0).num_cached((1, 2, 5)) == 0


def test_places_of_one_call_are_distinct() -> None:
    places = Places(FakeCache(), 3)
    hold(places, (1,), 10)
    queries = [Query((number,), sequence_id=number) for number in (11, 10, 12)]
    claimed = places.claim(queries)
    assert sorted(claimed) == [0, 1, 2]
    assert claimed[1] == 0
    assert places.claim(queries) == claimed


def test_one_text_at_a_time_takes_no_more_than_the_spare_rows() -> None:
    places = Places(FakeCache(), 64)
    for number in range(2 * SPARE_ROWS):
        hold(places, (number, 1), number)
    assert len(places) == SPARE_ROWS
    places.claim([Query((number,), sequence_id=100 + number) for number in range(7)])
    assert len(places) == 7


def test_a_new_text_begins_with_what_it_shares_with_the_likest() -> None:
    cache = FakeCache()
    places = Places(cache, 8)
    hold(places, (*SYSTEM[:2], 9, 9), 1)
    hold(places, (*SYSTEM, 7), 2)
    (place,) = places.claim([Query((*SYSTEM, 8), sequence_id=3)])
    assert cache.copies == [(0, 1, 2), (1, place, 6)]
    assert places.row(place).trunk == list(SYSTEM)


def test_what_is_not_folded_yet_is_copied_too() -> None:
    """A few-shot prompt is shorter than what a row folds."""
    cache = FakeCache()
    places = Places(cache, 8)
    (place,) = places.claim([Query((*SYSTEM, 7), sequence_id=1)])
    places.row(place).plan([Query((*SYSTEM, 7), sequence_id=1)])
    assert places.row(place).trunk == []
    (other,) = places.claim([Query((*SYSTEM, 8), sequence_id=2)])
    assert cache.copies == [(place, other, 6)]
    assert places.row(other).trunk == list(SYSTEM)


def test_without_a_sequence_the_row_that_holds_most_of_the_text_is_taken() -> None:
    places = Places(FakeCache(), 8)
    hold(places, SYSTEM, None)
    assert hold(places, (*SYSTEM, 7), None) == 0
    assert hold(places, (8, 9), None) == 1
    # Of 7 slots it would use one: too little to take the row for it.
    assert hold(places, (1, 9, 9), None) == 2
    assert hold(places, (*SYSTEM, 7, 7), None) == 0
    # A row that belongs to a sequence is nobody else's.
    assert hold(places, (20, 21), 5) == 3
    assert hold(places, (20, 21), None) != 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interrupted_copy_leaves_nothing_behind(error: BaseException) -> None:
    """The row that was given up may hold part of either text."""
    cache = FakeCache()
    places = Places(cache, 2)
    hold(places, (9, 9, 9), 1)
    hold(places, SYSTEM, 2)
    cache.error = error
    with pytest.raises(type(error)):
        places.claim([Query((*SYSTEM, 7), sequence_id=3)])
    assert places.row(0).num_cached((9, 9, 9)) == 0
    assert places.row(0).num_cached(SYSTEM) == 0
    assert places.row(1).num_cached(SYSTEM) == 6


def test_only_long_unused_rows_at_the_end_are_dropped() -> None:
    places = Places(FakeCache(), 4)
    for number in range(3):
        hold(places, (number, 1), number)
    for _ in range(IDLE - 1):
        places.claim([Query((0, 1), sequence_id=0)])
    places.drop_idle()
    assert len(places) == 3
    places.claim([Query((0, 1), sequence_id=0)])
    places.claim([Query((1, 1), sequence_id=1)])
    places.drop_idle()
    assert len(places) == 2
    assert hold(places, (2, 1), 2) == 2  # its place is forgotten, and it gets a new one
