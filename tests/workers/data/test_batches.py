"""Steps take the positions that are not skipped without a gap, and slots share a step out."""

import itertools
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.data.batch_plans import batches, plans, skips
from workers.data.batches import BatchPlan, slot_positions


@given(plan=plans(microbatch=1, limit=200))
def test_steps_are_cut_from_the_stream_without_the_skipped_positions(plan: BatchPlan) -> None:
    for step, expected in enumerate(itertools.islice(batches(plan), 60), 1):
        positions = plan.positions(step)
        assert positions.dtype == np.int64
        assert positions.tolist() == expected
        assert plan.global_batch(step) == len(expected)
        assert plan.end(step) == expected[-1] + 1
    assert plan.end(0) == 0


@given(
    plan=plans(microbatch=1, limit=200),
    earlier=plans(microbatch=1, limit=1),
    step=st.integers(0, 40),
    limit=st.integers(0, 400),
)
def test_another_plan_goes_on_where_one_left_off(
    plan: BatchPlan, earlier: BatchPlan, step: int, limit: int
) -> None:
    before = BatchPlan(earlier.phases, plan.skipped)
    position = before.end(step)
    after = BatchPlan(plan.phases, plan.skipped, (step, position))
    seen = [p for s in range(1, step + 1) for p in before.positions(s).tolist()]
    for later in range(step + 1, step + 20):
        positions = after.positions(later).tolist()
        assert len(positions) == after.global_batch(later) == plan.global_batch(later)
        seen += positions
        assert after.end(later) == positions[-1] + 1
        assert (after.num_steps(limit) >= later) == (positions[-1] < limit)
    assert seen == list(itertools.islice(_kept(plan), len(seen)))
    assert after.end(step) == position


def test_a_plan_may_begin_with_its_data_at_a_later_step() -> None:
    plan = BatchPlan(((1, 2), (3, 4)), ((1, 3),), start=(10, 0))
    assert [plan.positions(step).tolist() for step in (11, 12)] == [[0, 3, 4, 5], [6, 7, 8, 9]]
    assert [plan.num_steps(limit) for limit in (0, 5, 6, 10)] == [10, 10, 11, 12]
    with pytest.raises(ValueError, match="no batch for step 10: the first is 11"):
        plan.positions(10)


def _kept(plan: BatchPlan) -> Iterator[int]:
    return (p for p in itertools.count() if not any(f <= p < e for f, e in plan.skipped))


@given(plan=plans(microbatch=1, limit=200), limit=st.integers(0, 300))
def test_positions_below_a_limit_last_for_all_steps_that_end_there(
    plan: BatchPlan, limit: int
) -> None:
    whole = itertools.takewhile(lambda batch: batch[-1] < limit, batches(plan))
    assert plan.num_steps(limit) == len(list(whole))


@given(plan=plans(microbatch=1, limit=200), step=st.integers(0, 30), draw=st.data())
def test_a_later_skip_changes_nothing_of_the_steps_before_it(
    plan: BatchPlan, step: int, draw: st.DataObject
) -> None:
    end = plan.end(step)
    before = tuple((f, min(e, end)) for f, e in plan.skipped if f < end)
    later = tuple((end + f, end + e) for f, e in draw.draw(skips(50)))
    changed = BatchPlan(plan.phases, before + later)
    for earlier in range(1, step + 1):
        assert np.array_equal(changed.positions(earlier), plan.positions(earlier))
    assert changed.end(step) == end
    trained = {*range(end), *changed.positions(step + 1).tolist()}
    assert not any(p in trained for f, e in later for p in range(f, e))


def test_batch_grows_at_its_step_and_skipped_ranges_are_stepped_over() -> None:
    plan = BatchPlan(((1, 2), (3, 4)), ((1, 3), (3, 4), (8, 9)))
    assert [plan.positions(step).tolist() for step in (1, 2, 3)] == [[0, 4], [5, 6], [7, 9, 10, 11]]
    assert [plan.num_steps(limit) for limit in (4, 5, 7, 11, 12)] == [0, 1, 2, 2, 3]


@given(
    num_slots=st.integers(1, 16),
    microbatch=st.integers(1, 8),
    step=st.integers(1, 10**9),
    cuts=st.sets(st.integers(0, 16)),
)
def test_the_pods_of_any_cut_hold_the_whole_batch_in_order(
    num_slots: int, microbatch: int, step: int, cuts: set[int]
) -> None:
    whole = BatchPlan(((1, num_slots * microbatch),), ((5, 90),)).positions(step)
    bounds = sorted({0, num_slots, *(cut for cut in cuts if cut < num_slots)})
    held: list[int] = []
    for first, end in pairwise(bounds):
        for slot in range(first, end):
            part = slot_positions(whole, slot, microbatch)
            assert len(part) == microbatch
            held += part.tolist()
    assert held == whole.tolist()


def test_far_steps_are_exact_and_take_no_longer() -> None:
    plan = BatchPlan(((1, 1), (2, 1 << 20)), ((7, 8),))
    start = time.process_time()
    assert plan.positions((1 << 40) + 1)[-1] == (1 << 60) + 1
    assert plan.end((1 << 40) + 1) == (1 << 60) + 2
    assert plan.num_steps((1 << 60) + 2) == (1 << 40) + 1
    # Counting the steps would take days.
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((), "start at step 1"),
        (((2, 8),), "start at step 1"),
        (((1, 8), (5, 16), (5, 32)), "ascending order"),
        (((1, 8), (5, 16), (3, 32)), "ascending order"),
        (((1, 8), (5, 0)), "one sequence at least"),
    ],
)
def test_phases_that_leave_a_step_without_one_batch_are_a_value_error(
    phases: tuple[tuple[int, int], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BatchPlan(phases)


@pytest.mark.parametrize(
    "skipped", [((-1, 2),), ((3, 3),), ((4, 2),), ((5, 9), (1, 3)), ((1, 5), (4, 9))]
)
def test_skipped_ranges_out_of_order_or_empty_are_a_value_error(
    skipped: tuple[tuple[int, int], ...],
) -> None:
    with pytest.raises(ValueError, match="ascending, disjoint and not empty"):
        BatchPlan(((1, 8),), skipped)


@pytest.mark.parametrize("step", [0, -1])
def test_step_before_the_first_is_a_value_error(step: int) -> None:
    plan = BatchPlan(((1, 8),))
    for ask in (plan.positions, plan.global_batch):
        with pytest.raises(ValueError, match=f"no batch for step {step}"):
            ask(step)
    with pytest.raises(ValueError, match="no batch for step -1: the first is 1"):
        plan.end(-1)
