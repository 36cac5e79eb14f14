from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import batch
from controller.core.batch import BatchPhase

PHASES = (BatchPhase(1, 2), BatchPhase(4, 3), BatchPhase(6, 10))


@pytest.mark.parametrize(
    ("step", "slots", "through"), [(1, 2, 2), (3, 2, 6), (4, 3, 9), (8, 10, 42)]
)
def test_slots_follow_the_phases(step: int, slots: int, through: int) -> None:
    assert batch.num_slots(PHASES, step) == slots
    assert batch.slots_through(PHASES, step) == through


def test_before_the_first_step_there_are_none() -> None:
    assert batch.slots_through(PHASES, 0) == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6))
def test_every_skip_passes_over_as_many_new_positions_as_it_says(
    skips: list[tuple[int, int]],
) -> None:
    skipped: tuple[batch.Range, ...] = ()
    gone: set[int] = set()
    for start, count in skips:
        skipped = batch.skip(skipped, start, count)
        fresh = [position for position in range(start, 400) if position not in gone][:count]
        gone |= set(fresh)
        assert {p for first, end in skipped for p in range(first, end)} == gone
        assert all(a[1] < b[0] for a, b in itertools.pairwise(skipped))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=4),
    st.integers(0, 99),
)
def test_positions_that_are_kept_are_counted_without_the_skipped_ones(
    skips: list[tuple[int, int]], position: int
) -> None:
    skipped: tuple[batch.Range, ...] = ()
    for start, count in skips:
        skipped = batch.skip(skipped, start, count)
    gone = {p for first, end in skipped for p in range(first, end)}
    assert batch.kept_before(skipped, position) == len(set(range(position)) - gone)
