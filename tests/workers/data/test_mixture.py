"""An epoch goes through every source as often as its weight says."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workers.data.mixture import Mixture, locate, quota

SEEDS = st.integers(0, 2**32 - 1)
WEIGHTS = st.one_of(st.just(1.0), st.sampled_from([0.5, 2.0, 1 / 3, 2.5]), st.floats(0.05, 4))
SOURCES = st.lists(st.tuples(st.integers(1, 40), WEIGHTS), min_size=1, max_size=4)


def mixture_of(sources: list[tuple[int, float]]) -> Mixture:
    quotas = tuple(quota(weight, size) for size, weight in sources)
    assume(all(quotas))
    return Mixture(tuple(size for size, _ in sources), quotas)


def epoch_of(mixture: Mixture, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    size = mixture.epoch_size
    return locate(mixture, seed, np.arange(epoch * size, (epoch + 1) * size))


def counts(mixture: Mixture, seed: int, epoch: int, source: int) -> np.ndarray:
    sources, sequences = epoch_of(mixture, seed, epoch)
    return np.bincount(sequences[sources == source], minlength=mixture.sizes[source])


@given(sources=SOURCES, seed=SEEDS, epoch=st.integers(0, 7))
def test_every_epoch_holds_each_sequence_as_often_as_the_weight_rounded_down_or_up(
    sources: list[tuple[int, float]], seed: int, epoch: int
) -> None:
    mixture = mixture_of(sources)
    for index, (size, weight) in enumerate(sources):
        seen = counts(mixture, seed, epoch, index)
        assert len(seen) == size
        assert seen.sum() == mixture.quotas[index]
        assert {*seen.tolist()} <= {math.floor(weight), math.ceil(weight)}
        if weight == 1:
            assert (seen == 1).all()


@given(sources=SOURCES, seed=SEEDS, epochs=st.integers(1, 6))
def test_over_any_number_of_epochs_no_sequence_is_more_than_one_ahead(
    sources: list[tuple[int, float]], seed: int, epochs: int
) -> None:
    mixture = mixture_of(sources)
    for index in range(len(sources)):
        total = sum(counts(mixture, seed, epoch, index) for epoch in range(epochs))
        assert total.max() - total.min() <= 1


def test_half_a_source_comes_in_one_epoch_and_the_other_half_in_the_next() -> None:
    mixture = Mixture((10, 7), (5, 7))
    first, second = (counts(mixture, 3, epoch, 0) for epoch in (0, 1))
    assert (first + second == 1).all()
    assert first.sum() == second.sum() == 5


@given(sources=SOURCES, seed=SEEDS, draw=st.data())
def test_a_position_does_not_depend_on_what_is_asked_beside_it(
    sources: list[tuple[int, float]], seed: int, draw: st.DataObject
) -> None:
    mixture = mixture_of(sources)
    last = 4 * mixture.epoch_size
    positions = np.array(draw.draw(st.lists(st.integers(0, last), min_size=1, max_size=30)))
    together = locate(mixture, seed, positions)
    for i, position in enumerate(positions):
        alone = locate(mixture, seed, np.array([position]))
        assert (alone[0][0], alone[1][0]) == (together[0][i], together[1][i])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    mixture = Mixture((500, 300), (500, 300))
    orders = []
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            sources, sequences = epoch_of(mixture, seed, epoch)
            orders.append(sources * 1000 + sequences)
    for one, other in combinations(orders, 2):
        assert np.mean(one == other) < 0.02


def test_sources_are_mixed_evenly_over_an_epoch() -> None:
    mixture = Mixture((9000, 1000), (9000, 1000))
    sources, _ = epoch_of(mixture, 0, 0)
    shares = sources.reshape(10, 1000).mean(axis=1)
    assert shares.min() > 0.06
    assert shares.max() < 0.14


def test_locate_is_the_same_on_every_machine_for_ever() -> None:
    sources, sequences = locate(Mixture((47_189, 1000), (47_189, 2500)), 0, np.arange(5, 9))
    assert (sources.tolist(), sequences.tolist()) == ([0, 0, 1, 0], [4983, 15003, 247, 17993])
    assert sources.dtype == sequences.dtype == np.int64


def test_locate_far_out_is_exact() -> None:
    mixture = Mixture((3, 5), (3, 10))
    far = 10**15 * mixture.epoch_size
    sources, sequences = locate(mixture, 0, np.arange(far, far + mixture.epoch_size))
    assert np.bincount(sequences[sources == 0]).tolist() == [1, 1, 1]
    assert np.bincount(sequences[sources == 1]).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("weight", "size", "expected"), [(1, 7, 7), (2, 7, 14), (0.5, 8, 4), (0.001, 100, 0)]
)
def test_quota_is_the_weight_of_the_sequences(weight: float, size: int, expected: int) -> None:
    assert quota(weight, size) == expected
