"""Which sequences a step trains on: a pure function of (number of sequences, seed, step).

Every epoch visits its sequences in an order of its own, given by a keyed permutation that is
computed point by point: no order is stored and none has to be replayed to get at step N. An epoch
has num_sequences // global_batch steps; what does not fill a batch is left out of that epoch (other
sequences each time), so a step never spans two epochs. Steps count from 1.
"""

import numpy as np

# Rounds of the Feistel network; four make it a strong pseudo-random permutation (Luby, Rackoff),
# two more pay for a round function that is only a 64-bit mixer.
_ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def epoch_steps(num_sequences: int, global_batch: int) -> int:
    """Steps of one epoch; 0 when the data does not fill a single batch."""
    return num_sequences // global_batch


def sequence_ids(num_sequences: int, seed: int, step: int, global_batch: int) -> np.ndarray:
    """Sequence ids of a step, int64 [global_batch]."""
    steps = epoch_steps(num_sequences, global_batch)
    if step < 1 or steps < 1:
        raise ValueError(
            f"no batch for step {step}: steps count from 1, and {num_sequences} sequences"
            f" make {steps} batches of {global_batch}"
        )
    epoch, position = divmod(step - 1, steps)
    first = position * global_batch
    positions = np.arange(first, first + global_batch, dtype=np.uint64)
    return permute(positions, num_sequences, seed, epoch).astype(np.int64)


def slot_ids(ids: np.ndarray, slot: int, microbatch: int) -> np.ndarray:
    """The part of a step's ids that belongs to a microbatch slot."""
    return ids[slot * microbatch : (slot + 1) * microbatch]


def permute(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Image of positions under the permutation of 0..size-1 with that key, uint64."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    image = _feistel(positions.astype(np.uint64), half_bits, keys)
    # Cycle walking: the network permutes 4**half_bits >= size values; walking on from an image
    # outside comes back inside, and stays a permutation. Fewer than 4 walks on average.
    while (outside := image >= size).any():
        image[outside] = _feistel(image[outside], half_bits, keys)
    return image


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(epoch))
    return _mix(key + _GOLDEN * np.arange(1, _ROUNDS + 1, dtype=np.uint64))


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << shift | right


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
