"""Steps follow one another without a gap, and slots share a step out however it is cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.batches import data_steps, slot_positions, step_positions


@given(global_batch=st.integers(1, 64), steps=st.integers(1, 50))
def test_steps_follow_one_another_without_a_gap(global_batch: int, steps: int) -> None:
    positions = [p for step in range(1, steps + 1) for p in step_positions(step, global_batch)]
    assert positions == list(range(steps * global_batch))


@settings(deadline=None)
@given(
    num_slots=st.integers(1, 16),
    microbatch=st.integers(1, 8),
    step=st.integers(1, 10**9),
    cuts=st.sets(st.integers(0, 16)),
)
def test_the_pods_of_any_cut_hold_the_whole_batch_in_order(
    num_slots: int, microbatch: int, step: int, cuts: set[int]
) -> None:
    whole = step_positions(step, num_slots * microbatch)
    bounds = sorted({0, num_slots, *(cut for cut in cuts if cut < num_slots)})
    held: list[int] = []
    for first, end in pairwise(bounds):
        for slot in range(first, end):
            part = slot_positions(whole, slot, microbatch)
            assert len(part) == microbatch
            held += part
    assert held == list(whole)


@given(st.integers(1, 9), st.integers(1, 500), st.integers(1, 64))
def test_data_lasts_for_all_whole_batches_of_its_epochs(
    epochs: int, epoch_size: int, global_batch: int
) -> None:
    steps = data_steps(epochs, epoch_size, global_batch)
    assert 0 <= epochs * epoch_size - steps * global_batch < global_batch


def test_positions_stay_exact_where_nobody_trains() -> None:
    positions = np.asarray(step_positions(1 << 40, 1 << 20), np.int64)
    assert positions[-1] == (1 << 60) - 1


def test_step_zero_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no batch for step 0"):
        step_positions(0, 8)
