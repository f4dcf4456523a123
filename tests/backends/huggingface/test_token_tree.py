"""What is cached of a text, against a plain account of every token that was computed."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.token_tree import CachedText

ids = st.lists(st.integers(0, 2), max_size=8).map(tuple)


@given(ids, ids)
@example((1, 2, 0, 1), (1, 2, 0, 1))
@example((0, 1, 1, 1), (1, 1, 1, 1))
@example((1, 0, 1, 1, 1), (1, 1, 1, 1, 1))
def test_what_two_texts_share(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    row = CachedText()
    row.begin(one)
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    assert row.shared(other) == shared


def texts_of_slots(row: CachedText) -> dict[int, tuple[int, ...]]:
    """The text that ends with the token in each slot."""
    held = {slot: tuple(row.trunk[: slot + 1]) for slot in range(len(row.trunk))}
    for node in row.nodes():  # parents first
        before = tuple(row.trunk) if node.parent is None else held[node.parent.slot]
        held[node.slot] = (*before, node.token)
    return held


@given(
    ids.filter(bool),
    st.lists(st.tuples(ids.filter(bool), ids), min_size=1, max_size=8),
)
def test_a_plan_computes_what_is_not_cached(
    trunk: tuple[int, ...], asked: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """And the positions that are asked about, whose logits nobody kept."""
    row = CachedText()
    row.begin(trunk)
    cached = {trunk[:end] for end in range(1, len(trunk) + 1)}
    for prefix, continuation in asked:
        text, first = prefix + continuation, len(prefix)
        num_known = next((n for n in range(len(text)) if text[: n + 1] not in cached), len(text))
        assert row.num_cached(text) == num_known
        plan = row.plan([Query(prefix, continuation)])
        positions = [node.position for node in plan.nodes]
        wanted = sorted({*range(num_known, len(text)), *range(first - 1, len(text))})
        assert positions == wanted
        assert [node.token for node in plan.nodes] == [text[position] for position in wanted]
        assert [positions[i] for i in plan.wanted[0]] == list(range(first - 1, len(text)))
        cached |= {text[:end] for end in range(1, len(text) + 1)}
        slots = [node.slot for node in row.nodes()]
        assert len({*slots, *range(len(row.trunk))}) == len(slots) + len(row.trunk)
        assert all(row.num_cached(each) == len(each) for each in cached)
        held = texts_of_slots(row)
        for each in cached:
            num = row.num_in_place(each)
            assert all(held[slot] == each[: slot + 1] for slot in range(num))
            assert num == len(each) or held.get(num) != each[: num + 1]
