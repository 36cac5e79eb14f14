"""A step's sequences are a pure function, and an epoch visits each of them at most once."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.batches import epoch_steps, permute, sequence_ids, slot_ids

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 100))
def test_permute_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    image = permute(np.arange(size, dtype=np.uint64), size, seed, epoch)
    assert np.array_equal(np.sort(image), np.arange(size))


@settings(deadline=None)
@given(
    num_sequences=st.integers(1, 200),
    global_batch=st.integers(1, 32),
    seed=SEEDS,
    epoch=st.integers(0, 3),
)
def test_epoch_visits_each_sequence_at_most_once_and_leaves_out_less_than_a_batch(
    num_sequences: int, global_batch: int, seed: int, epoch: int
) -> None:
    steps = epoch_steps(num_sequences, global_batch)
    first = 1 + epoch * steps
    visited = [
        sequence_ids(num_sequences, seed, step, global_batch)
        for step in range(first, first + steps)
    ]
    ids = np.concatenate(visited) if visited else np.empty(0, np.int64)
    assert len(np.unique(ids)) == len(ids) > num_sequences - global_batch
    assert all(0 <= i < num_sequences for i in ids)


@settings(deadline=None)
@given(seed=SEEDS, step=st.integers(1, 10**6))
def test_sequence_ids_do_not_depend_on_what_was_asked_before(seed: int, step: int) -> None:
    alone = sequence_ids(10_000, seed, step, 16)
    for other in (step + 1, 1, step):
        again = sequence_ids(10_000, seed, other, 16)
    assert np.array_equal(alone, again)
    assert alone.dtype == np.int64


def test_sequence_ids_are_the_same_on_every_machine_for_ever() -> None:
    assert sequence_ids(47_189, 0, 1, 4).tolist() == [9334, 38833, 14706, 44431]


def test_order_differs_between_seeds_and_epochs() -> None:
    positions = np.arange(1000, dtype=np.uint64)
    orders = [permute(positions, 1000, s, e) for s in (0, 1) for e in (0, 1)]
    for one, other in combinations(orders, 2):
        assert np.mean(one == other) < 0.01


def test_order_looks_random() -> None:
    image = permute(np.arange(10_000, dtype=np.uint64), 10_000, 0, 0).astype(float)
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.05


@settings(deadline=None)
@given(num_slots=st.integers(1, 16), microbatch=st.integers(1, 8))
def test_slots_share_out_the_batch_in_order(num_slots: int, microbatch: int) -> None:
    ids = sequence_ids(1000, 3, 2, num_slots * microbatch)
    slots = [slot_ids(ids, slot, microbatch) for slot in range(num_slots)]
    assert np.array_equal(np.concatenate(slots), ids)
    assert {len(slot) for slot in slots} == {microbatch}


@pytest.mark.parametrize(("num_sequences", "step"), [(100, 0), (7, 1)])
def test_step_without_a_batch_is_a_value_error(num_sequences: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"no batch for step {step}"):
        sequence_ids(num_sequences, 0, step, 8)
