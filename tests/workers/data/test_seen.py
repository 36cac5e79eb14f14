"""What is said to be trained on of every source is what the batches hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.data.batch_plans import batches, plans
from tests.workers.data.test_dataset import numbered
from workers.data.batches import BatchPlan
from workers.data.dataset import TokenDataset
from workers.data.mixture import Mixture, count, locate
from workers.data.seen import SeenSequences


@given(seed=st.integers(0, 2**32 - 1), first=st.integers(0, 250), length=st.integers(0, 250))
def test_count_is_what_one_finds_by_looking(seed: int, first: int, length: int) -> None:
    mixture = Mixture((30, 20), (45, 14))
    sources, _ = locate(mixture, seed, np.arange(first, first + length))
    expected = np.bincount(sources, minlength=2).tolist()
    assert count(mixture, seed, first, first + length).tolist() == expected


def test_more_than_is_held_in_memory_at_once_is_counted_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixture = Mixture((30, 20), (45, 14))
    whole = count(mixture, 3, 7, 57).tolist()
    monkeypatch.setattr("workers.data.mixture.COUNTED_AT_ONCE", 9)
    assert count(mixture, 3, 7, 57).tolist() == whole and sum(whole) == 50


@given(
    plan=plans(microbatch=2, limit=120),
    seed=st.integers(0, 2**32 - 1),
    asked=st.sets(st.integers(1, 40), min_size=1, max_size=5),
)
def test_seen_counts_the_batches_of_the_steps_and_nothing_that_is_skipped(
    plan: BatchPlan, seed: int, asked: set[int]
) -> None:
    dataset = TokenDataset(numbered(301, 207, weights=(1.5, 0.7)), 10, "test")
    seen = SeenSequences(dataset, seed, plan)
    rows = [
        np.bincount(dataset.rows(seed, batch)[0][:, 0] // 10_000, minlength=2)
        for batch in itertools.islice(batches(plan), 40)
    ]
    expected = np.cumsum(rows, axis=0)
    for step in sorted(asked):
        assert through(seen, step) == tuple(expected[step - 1])


def test_what_was_counted_is_not_taken_back() -> None:
    seen = SeenSequences(TokenDataset(numbered(301), 10, "test"), 0, BatchPlan(((1, 4),)))
    assert through(seen, 3) == (12,) == through(seen, 3)
    with pytest.raises(ValueError, match="step 2 is behind"):
        through(seen, 2)


@given(
    at_once=st.integers(1, 100),
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=3).map(sorted),
)
def test_counting_in_parts_may_be_left_and_comes_to_the_same(
    at_once: int, steps: list[int]
) -> None:
    dataset = TokenDataset(numbered(301, 207, weights=(1.5, 0.7)), 10, "test")
    plan = BatchPlan(((1, 4),), ((7, 30),))
    whole, parts = SeenSequences(dataset, 3, plan), SeenSequences(dataset, 3, plan)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("workers.data.seen.COUNTED_AT_ONCE", at_once)
        for step in steps:
            next(parts.advance(step), None)
            assert through(parts, step) == through(whole, step)


def through(seen: SeenSequences, step: int) -> tuple[int, ...]:
    for _ in seen.advance(step):
        pass
    return seen.counts
