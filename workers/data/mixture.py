"""Which sequence of which source stands at a position of a job's endless stream of sequences.

A pure function of (mixture, seed, position). Source i has n_i sequences and gives q_i of them to
every epoch, so an epoch has Q = sum of q_i positions.

  - Every source goes round and round one keyed permutation of its sequences, and epoch e takes the
    places e*q_i .. (e+1)*q_i - 1 of that round. A window of q_i places holds each sequence
    floor(q_i/n_i) or ceil(q_i/n_i) times, wherever it starts. A new permutation for every round
    would not have this property: the end of one round and the start of the next may share
    sequences, and an epoch with both would repeat some while others wait.
  - A keyed permutation of the epoch's Q positions, another one for each epoch, shuffles all sources
    into each other. It is what makes epochs differ in order.
"""

import dataclasses

import numpy as np

from workers.data.permutation import permute

# First part of a key, so that the two uses of permutations never share one.
_EPOCH_ORDER, _SOURCE_ORDER = 0, 1

# Positions whose places are in memory together while they are counted: some 50 MB.
COUNTED_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Mixture:
    """Sequences of every source, and how many of them an epoch takes; all at least 1."""

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]

    @property
    def epoch_size(self) -> int:
        """Positions of one epoch, Q."""
        return sum(self.quotas)


def quota(weight: float, num_sequences: int) -> int:
    """Sequences of a source in one epoch when an epoch goes `weight` times through it."""
    return round(weight * num_sequences)


def locate(mixture: Mixture, seed: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sources, sequences in them) at positions >= 0, int64 [len(positions)] each."""
    epochs, places, sources = _places(mixture, seed, positions)
    ends = np.cumsum(mixture.quotas)
    sequences = np.empty_like(places)
    for source in np.unique(sources):
        inside = sources == source
        size, share = mixture.sizes[source], mixture.quotas[source]
        offsets = places[inside] - (ends[source] - share)
        rounds = (epochs[inside] * share + offsets) % size
        sequences[inside] = permute(rounds, size, (_SOURCE_ORDER, seed, int(source)))
    return sources, sequences


def count(mixture: Mixture, seed: int, first: int, end: int) -> np.ndarray:
    """Sequences of every source at the positions from `first` to `end` - 1, int64 [number of
    sources]. Takes time in proportion to the part of an epoch at both ends."""
    size = mixture.epoch_size
    whole_first, whole_end = -(-first // size), end // size
    if whole_end <= whole_first:
        return _count_each(mixture, seed, first, end)
    return (
        _count_each(mixture, seed, first, whole_first * size)
        + (whole_end - whole_first) * np.array(mixture.quotas, np.int64)
        + _count_each(mixture, seed, whole_end * size, end)
    )


def _count_each(mixture: Mixture, seed: int, first: int, end: int) -> np.ndarray:
    counts = np.zeros(len(mixture.sizes), np.int64)
    for start in range(first, end, COUNTED_AT_ONCE):
        positions = np.arange(start, min(start + COUNTED_AT_ONCE, end))
        _, _, sources = _places(mixture, seed, positions)
        counts += np.bincount(sources, minlength=len(mixture.sizes))
    return counts


def _places(
    mixture: Mixture, seed: int, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epochs, places in their shuffled order, sources) of positions, int64 each. The sources lie
    one behind the other in an epoch that is not shuffled."""
    ends = np.cumsum(mixture.quotas)
    epochs, places = np.divmod(positions.astype(np.int64), ends[-1])
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        key = (_EPOCH_ORDER, seed, int(epoch))
        places[inside] = permute(places[inside], int(ends[-1]), key)
    return epochs, places, np.searchsorted(ends, places, side="right")
