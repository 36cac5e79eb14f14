"""A hash of every bit of a set of sharded arrays, computed where they live.

Each element is mixed with its position and summed modulo 2^32: addition commutes, so the value
depends on the contents and on no sharding or reduction order, and because mixing is a bijection of
the element's bits one flipped bit always changes it. Four lanes with independent mixing make an
accidental collision a matter of 2^-128. Not a cryptographic hash: it finds accidents, not forgers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

LANES = 4
# Odd constants: the 32-bit golden ratio and the two of murmur3's finaliser.
_GOLDEN, _MURMUR_1, _MURMUR_2 = (
    np.uint32(0x9E3779B9),
    np.uint32(0x85EBCA6B),
    np.uint32(0xC2B2AE35),
)


def digest(arrays: Sequence[jax.Array]) -> jax.Array:
    """uint32 [LANES * len(arrays)]: the lanes of each array in turn, so they say which differs."""
    return jnp.concatenate([_lanes(array) for array in arrays])


def _lanes(array: jax.Array) -> jax.Array:
    words = _words(array)
    position = _position(words.shape)
    seeds = np.arange(LANES, dtype=np.uint32) * _GOLDEN
    mixed = _mix(words ^ _mix(position + seeds.reshape(LANES, *[1] * words.ndim)))
    return mixed.sum(axis=tuple(range(1, mixed.ndim)), dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
    """The bits of an array as uint32; 64-bit elements gain a trailing dim of two words."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    bits = array.dtype.itemsize * 8
    if bits >= 32:
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


def _position(shape: tuple[int, ...]) -> jax.Array:
    """A word for each element, mixed dim by dim because a linear index may exceed 32 bits."""
    position = jnp.zeros(shape, jnp.uint32)
    for dim in range(len(shape)):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, dim)
        position = _mix(position * _GOLDEN + index + _GOLDEN)
    return position


def _mix(word: jax.Array) -> jax.Array:
    """Murmur3's finaliser: a bijection in which every input bit reaches every output bit."""
    word = (word ^ (word >> 16)) * _MURMUR_1
    word = (word ^ (word >> 13)) * _MURMUR_2
    return word ^ (word >> 16)
