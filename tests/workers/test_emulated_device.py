import jax
import numpy as np
import pytest

from workers import emulated_device
from workers.emulated_device import PacedComponent, load_at
from workers.program import load, read_bundle


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Doubled:
    """Twice what it is given, after some real work."""

    device_bytes = {"arguments": 3}

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def __call__(self, *groups):
        self.clock.now += self.seconds
        return [[2 * array for array in group] for group in groups]


@pytest.mark.parametrize(("real", "planned"), [(0.0, 0.5), (0.25, 0.5), (0.75, 0.5)])
def test_a_paced_component_lasts_as_long_as_planned_or_as_it_must(real, planned, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(emulated_device, "time", clock)
    paced = PacedComponent(Doubled(clock, real), planned)
    (group,) = paced([jax.numpy.ones(3)])
    assert clock.now == 100.0 + max(real, planned)
    assert group[0].tolist() == [2.0, 2.0, 2.0] and paced.device_bytes == {"arguments": 3}


def test_an_emulated_device_changes_no_bits_and_paces_what_has_flops(bigram):
    manifest, parts = read_bundle(bigram.data, bigram.digest)
    own, paced = load(manifest, parts), load_at(1e15, manifest, parts)
    assert paced.manifest == own.manifest and paced.groups == own.groups
    waits = [name for name, it in paced.components.items() if isinstance(it, PacedComponent)]
    assert waits == ["forward"]
    seed = jax.device_put(np.uint32(7), own.groups["seed"][0].sharding)
    states = [program.components["init"]([seed]) for program in (own, paced)]
    for mine, theirs in zip(*(jax.tree.leaves(state) for state in states), strict=True):
        assert np.array_equal(mine, theirs)
