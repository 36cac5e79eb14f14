"""An order is a bijection that looks random, and another one for every key."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.data.permutation import permute

SEEDS = st.integers(0, 2**32 - 1)


@given(size=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 100))
def test_permute_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    image = permute(np.arange(size, dtype=np.uint64), size, (seed, epoch))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_permute_is_the_same_on_every_machine_for_ever() -> None:
    assert permute(np.arange(4), 47_189, (0, 0, 0)).tolist() == [18211, 22465, 38204, 39981]


def test_order_differs_between_keys() -> None:
    positions = np.arange(1000, dtype=np.uint64)
    keys = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    orders = [permute(positions, 1000, key) for key in keys]
    for one, other in combinations(orders, 2):
        assert np.mean(one == other) < 0.01


def test_order_looks_random() -> None:
    image = permute(np.arange(10_000, dtype=np.uint64), 10_000, (0, 0)).astype(float)
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.05
