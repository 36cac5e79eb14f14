"""Steps come out in order, ahead of time but not too far, and errors come out too."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from workers.data.batches import BatchPlan, slot_positions
from workers.data.dataset import TokenDataset
from workers.data.packing import SourceTokens
from workers.data.prefetch import Prefetcher

WAIT = 20.0


TOKENS = SourceTokens("test", 1.0, np.arange(2001, dtype=np.uint16), 1, "00")

PLAN = BatchPlan(((1, 16), (20, 32)), ((100, 123),))
"""Batches of 4 slots, later 8, and a range that nobody trains on."""


class WatchedDataset(TokenDataset):
    """Says how many slots were prepared, and fails at the slot it is told to."""

    def __init__(self, fail_at_row: int | None = None) -> None:
        super().__init__([TOKENS], 10, "test")
        self.changed = threading.Condition()
        self.num_prepared = 0
        self._fail_at_row = fail_at_row

    def rows(
        self, seed: int, positions: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        with self.changed:
            if self.num_prepared == self._fail_at_row:
                raise OSError("the disk is gone")
            self.num_prepared += 1
            self.changed.notify_all()
        return super().rows(seed, positions)

    def await_prepared(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.num_prepared >= count, WAIT)


@contextmanager
def prefetching(
    dataset: TokenDataset, slots: Callable[[int], range], steps: range
) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(dataset, PLAN, 7, 4, slots, steps[0], steps[-1])
    try:
        yield prefetcher
    finally:
        prefetcher.close()


def first_slot(step: int) -> range:
    return range(1)


@pytest.mark.parametrize("pod", [0, 1])
def test_get_returns_the_arrays_of_the_pods_slots_for_each_step(pod: int) -> None:
    def slots(step: int) -> range:
        half = PLAN.global_batch(step) // 4 // 2
        return range(pod * half, (pod + 1) * half)

    dataset = TokenDataset([TOKENS], 10, "test")
    with prefetching(dataset, slots, range(5, 30)) as prefetcher:
        for step in range(5, 30):
            positions = PLAN.positions(step)
            arrays = prefetcher.get(step)
            assert len(arrays) == (2 if step < 20 else 4)
            for slot, (inputs, targets) in zip(slots(step), arrays, strict=True):
                expected = dataset.rows(7, slot_positions(positions, slot, 4))
                assert np.array_equal(inputs, expected[0])
                assert np.array_equal(targets, expected[1])


def test_what_was_trained_on_through_a_step_is_told_whenever_it_is_asked() -> None:
    def through(step: int) -> tuple[int, ...]:
        return (sum(PLAN.global_batch(earlier) for earlier in range(1, step + 1)),)

    dataset = TokenDataset([TOKENS], 10, "test")
    with prefetching(dataset, first_slot, range(5, 30)) as prefetcher:
        for step in range(5, 29):
            prefetcher.get(step)
            # Nothing where it is not counted yet.
            assert prefetcher.seen_through(step) in ((), through(step))
        prefetcher.get(29)
        assert prefetcher.seen_through(29) == through(29)


def test_a_closed_prefetcher_tells_nothing_any_more() -> None:
    with prefetching(TokenDataset([TOKENS], 10, "test"), first_slot, range(5, 30)) as prefetcher:
        prefetcher.close()
        with pytest.raises(RuntimeError, match="closed"):
            prefetcher.seen_through(29)


def test_prefetch_runs_ahead_by_two_steps_and_no_more() -> None:
    dataset = WatchedDataset()
    with prefetching(dataset, first_slot, range(1, 100)) as prefetcher:
        assert dataset.await_prepared(2)
        prefetcher.get(1)
        assert dataset.await_prepared(3)
        prefetcher.get(2)
        assert dataset.await_prepared(4)
        assert dataset.num_prepared == 4


def test_get_may_skip_steps() -> None:
    dataset = WatchedDataset()
    with prefetching(dataset, first_slot, range(1, 100)) as prefetcher:
        prefetcher.get(1)
        inputs, _ = prefetcher.get(50)[0]
        expected = dataset.rows(7, slot_positions(PLAN.positions(50), 0, 4))
        assert np.array_equal(inputs, expected[0])


def test_error_while_preparing_comes_out_of_get_after_the_good_steps() -> None:
    with prefetching(WatchedDataset(fail_at_row=1), first_slot, range(1, 100)) as prefetcher:
        assert prefetcher.get(1)
        for step in (2, 2, 3):
            with pytest.raises(OSError, match="the disk is gone"):
                prefetcher.get(step)


def test_step_that_was_taken_or_is_beyond_the_last_is_a_value_error() -> None:
    with prefetching(WatchedDataset(), first_slot, range(3, 5)) as prefetcher:
        prefetcher.get(3)
        for step in (3, 5):
            with pytest.raises(ValueError, match=f"step {step} is not ahead"):
                prefetcher.get(step)


def test_close_ends_the_thread_and_later_gets() -> None:
    before = threading.active_count()
    prefetcher = Prefetcher(WatchedDataset(), PLAN, 7, 4, first_slot, 1, 100)
    prefetcher.close()
    prefetcher.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        prefetcher.get(1)
