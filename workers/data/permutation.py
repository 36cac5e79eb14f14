"""Keyed permutations, computed point by point: no order is stored, none is replayed to get at N."""

import numpy as np

# Rounds of the Feistel network; four make it a strong pseudo-random permutation (Luby, Rackoff),
# two more pay for a round function that is only a 64-bit mixer.
_ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permute(positions: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Image of positions under the permutation of 0..size-1 with that key, uint64.

    Keys that are compared with one another must have one length.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(key)
    image = _feistel(positions.astype(np.uint64), half_bits, keys)
    # Cycle walking: the network permutes 4**half_bits >= size values; walking on from an image
    # outside comes back inside, and stays a permutation. Fewer than 4 walks on average.
    while (outside := image >= size).any():
        image[outside] = _feistel(image[outside], half_bits, keys)
    return image


def _round_keys(key: tuple[int, ...]) -> np.ndarray:
    state = np.zeros(1, np.uint64)
    for part in key:
        # The mixer leaves 0 as it is; the constant keeps keys of zeros from staying 0.
        state = _mix((state + _GOLDEN) ^ np.uint64(part))
    return _mix(state + _GOLDEN * np.arange(1, _ROUNDS + 1, dtype=np.uint64))


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
