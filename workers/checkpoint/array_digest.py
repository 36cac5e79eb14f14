"""Digests of arrays where they live: the same on any mesh, and at all hosts of a pod.

Every element is mixed with its position and the words are summed modulo 2^32, so the value depends
on no sharding and no order of summation; a flipped bit always changes it. It finds accidents, not
forgers. Parameters and optimizer state have a digest of their own, which the program computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LANES = 4
_GOLDEN, _FIRST, _SECOND = (np.uint32(x) for x in (0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35))
"""Odd: the golden ratio, and the two of murmur3's finaliser."""


@jax.jit
def lanes_of(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """uint32 [4] of every array, on all devices. Returns at once; all hosts of a pod call it in the
    same order, since it may sum over their devices."""
    return {name: _lanes(array) for name, array in arrays.items()}


def sha256_of(lanes: Mapping[str, jax.Array]) -> dict[str, str]:
    """Digests, hex, from what lanes_of() gave. Waits for it; may be called on any thread."""
    return {
        name: hashlib.sha256(np.asarray(words).tobytes()).hexdigest()
        for name, words in lanes.items()
    }


def _lanes(array: jax.Array) -> jax.Array:
    words = _words(array)
    position = jnp.zeros(words.shape, jnp.uint32)
    for dim in range(words.ndim):
        # Dim by dim: a linear index may exceed 32 bits.
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, dim)
        position = _mix(position * _GOLDEN + index + _GOLDEN)
    seeds = np.arange(_LANES, dtype=np.uint32) * _GOLDEN
    sums = [jnp.sum(_mix(words ^ _mix(position + seed)), dtype=jnp.uint32) for seed in seeds]
    return jnp.stack(sums)


def _words(array: jax.Array) -> jax.Array:
    """The bits of every element; 64-bit ones gain a trailing dim of two words."""
    bits = 8 * array.dtype.itemsize
    if array.dtype == jnp.bool_ or bits >= 32:
        unsigned: Any = jnp.uint32
    else:
        unsigned = jnp.dtype(f"uint{bits}")
    if array.dtype == jnp.bool_:
        return array.astype(unsigned)
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _mix(word: Any) -> Any:
    """Murmur3's finaliser: a bijection in which every input bit reaches every output bit."""
    word = (word ^ (word >> 16)) * _FIRST
    word = (word ^ (word >> 13)) * _SECOND
    return word ^ (word >> 16)
