"""What gradients are encoded as on the link, computed on the devices.

Rows are encoded apart, so that a row can travel alone. R rows, N numbers of a row, C blocks of a
row, K numbers of a block.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

BLOCK = 256
"""Numbers that share a scale: 4 bytes for 256, so int8 takes 3.94 times less than float32, and int4
7.76 times."""


class Codec(Protocol):
    """Equal ones encode alike."""

    block: ClassVar[int]
    """Numbers that are encoded together. Every array begins a block, so that a copy of one becomes
    the same bits whatever lies beside it."""

    def row_bytes(self, count: int) -> int:
        """Bytes of an encoded row of `count` numbers."""
        ...

    def encode(self, x_RN: jax.Array, key: jax.Array, block_RC: jax.Array) -> jax.Array:
        """uint8 [R, row_bytes(N)] of float32 [R, N]. What is random follows from `key` and from the
        number of the block, uint32 [R, C]."""
        ...

    def decode(self, encoded: jax.Array, count: int) -> jax.Array:
        """float32 [R, count]."""
        ...


@dataclasses.dataclass(frozen=True)
class Bfloat16:
    """To the nearest number that bfloat16 has."""

    block: ClassVar[int] = 1

    def row_bytes(self, count: int) -> int:
        return 2 * count

    def encode(self, x_RN: jax.Array, key: jax.Array, block_RC: jax.Array) -> jax.Array:
        return _bytes(x_RN.astype(jnp.bfloat16))

    def decode(self, encoded: jax.Array, count: int) -> jax.Array:
        pairs = encoded.reshape(encoded.shape[0], count, 2)
        return jax.lax.bitcast_convert_type(pairs, jnp.bfloat16).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Integers:
    """Whole multiples of a scale per block, of 4 or 8 bits: -7 to 7 or -127 to 127 of them; the
    scale is float32.

    A row is its scales and then its multiples; those of 4 bits share bytes, the first half of the
    row in the low bits and the second half in the high ones. A block with a number that is not
    finite comes back as one that has none, so that the fault stays visible.
    """

    bits: int
    stochastic: bool
    """Rounds up with the probability of the remainder, so that errors have mean 0; otherwise to the
    nearest."""

    block: ClassVar[int] = BLOCK

    @property
    def _per_byte(self) -> int:
        return 8 // self.bits

    @property
    def _most(self) -> float:
        return float((1 << (self.bits - 1)) - 1)

    def row_bytes(self, count: int) -> int:
        return count // self._per_byte + 4 * (count // BLOCK)

    def encode(self, x_RN: jax.Array, key: jax.Array, block_RC: jax.Array) -> jax.Array:
        x_RCK = x_RN.reshape(x_RN.shape[0], -1, BLOCK)
        scale_RC1 = jnp.abs(x_RCK).max(axis=-1, keepdims=True) / self._most
        # All zeros: any divisor but 0 will do.
        multiples_RCK = x_RCK / jnp.where(scale_RC1 == 0.0, 1.0, scale_RC1)
        if self.stochastic:
            # 24 random bits are all that a float32 in [0, 1) has.
            uniform_RCK = _uniform(key, block_RC)
            rounded_RCK = jnp.floor(multiples_RCK + uniform_RCK)
        else:
            rounded_RCK = jnp.rint(multiples_RCK)
        clipped_RCK = jnp.clip(rounded_RCK, -self._most, self._most)
        whole_RN = _bytes(clipped_RCK.astype(jnp.int8).reshape(x_RN.shape))
        if self._per_byte == 2:
            low, high = jnp.split(whole_RN, 2, axis=1)
            whole_RN = (low & 15) | (high << 4)
        return jnp.concatenate([_bytes(scale_RC1[..., 0]), whole_RN], axis=1)

    def decode(self, encoded: jax.Array, count: int) -> jax.Array:
        rows, blocks = encoded.shape[0], count // BLOCK
        words = encoded[:, : 4 * blocks].reshape(rows, blocks, 4)
        scale_RC = jax.lax.bitcast_convert_type(words, jnp.float32)
        whole_RN = encoded[:, 4 * blocks :]
        if self._per_byte == 2:
            whole_RN = jnp.concatenate([whole_RN << 4, whole_RN], axis=1)
        whole_RN = jax.lax.bitcast_convert_type(whole_RN, jnp.int8)
        if self._per_byte == 2:
            # From the high bits down, with the sign.
            whole_RN = whole_RN >> 4
        whole_RCK = whole_RN.reshape(rows, blocks, BLOCK).astype(jnp.float32)
        return (whole_RCK * scale_RC[..., None]).reshape(rows, count)


def _uniform(key: jax.Array, block_RC: jax.Array) -> jax.Array:
    """float32 [R, C, K] in [0, 1), of each block by its number."""

    def of_block(block: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, block), (BLOCK,))

    return jax.vmap(jax.vmap(of_block))(block_RC)


def _bytes(array: jax.Array) -> jax.Array:
    """The bits of each row, uint8 [R, bytes]."""
    return jax.lax.bitcast_convert_type(array, jnp.uint8).reshape(array.shape[0], -1)
