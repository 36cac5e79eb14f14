"""Numbers of one segment on one device as they are encoded: laid out in rows, in blocks, with what
encoding loses beside them. What is computed here is the same compiled program at every pod.

Letters of shapes: R rows, N numbers of a row, C blocks of a row, P members.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workers.payload import Payload
from workers.reduction.base import Gang
from workers.reduction.codec import Codec

_Shapes = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to encode."""

    codec: Codec
    error_feedback: bool
    seed: int


class Coding:
    """What is computed of a lane, on any device; lanes of the same shapes share it, and what is
    compiled of it."""

    def __init__(self, shapes: _Shapes, rows: int, codec: Codec, error_feedback: bool) -> None:
        self._shapes, self._rows = shapes, rows
        self._codec, self._error_feedback = codec, error_feedback
        block = codec.block
        self._sizes = [math.prod(shape) for shape, _ in shapes]
        self._padded = [-(-size // block) * block for size in self._sizes]
        self.count = -(-sum(self._padded) // (rows * block)) * block
        """Numbers of a row; the last one is padded with zeros."""
        self.encode = jax.jit(self._encode)
        self.encode_total = jax.jit(self._encode_total)
        self.decode_total = jax.jit(self._decode_total)
        self.decode_rows = jax.jit(self._decode_rows)
        self.rows_of = jax.jit(self._rows_of)
        self.shards_of = jax.jit(self._shards_of)
        self.shards_of_row = jax.jit(self._shards_of_row)
        self.shared_out = jax.jit(self._shared_out)

    def _encode(
        self,
        shards: list[jax.Array],
        residual_RN: jax.Array,
        numbers: jax.Array,
        block_RC: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        return self._with_loss(self._rows_of(shards), residual_RN, numbers, block_RC)

    def _encode_total(
        self,
        encoded: jax.Array,
        residual_1N: jax.Array,
        numbers: jax.Array,
        block_RC: jax.Array,
        row: np.int32,
    ) -> tuple[jax.Array, jax.Array]:
        """Of this pod's row, from that of every member [P, bytes]."""
        block_1C = block_RC[row][None]
        return self._with_loss(self._sum(encoded)[None], residual_1N, numbers, block_1C)

    def _decode_total(self, encoded: jax.Array) -> list[jax.Array]:
        """Shards from what every member has encoded [P, bytes], when nobody owns a row."""
        return self._as_gradients(self._sum(encoded))

    def _decode_rows(self, encoded: jax.Array) -> list[jax.Array]:
        """Shards from the totals of all rows [R, bytes]."""
        return self._as_gradients(self._codec.decode(encoded, self.count))

    def _rows_of(self, shards: list[jax.Array]) -> jax.Array:
        """float32 [R, N], each shard and then all of them padded with zeros."""
        flat = [shard.reshape(-1).astype(jnp.float32) for shard in shards]
        parts = [
            jnp.pad(part, (0, padded - size))
            for part, size, padded in zip(flat, self._sizes, self._padded, strict=True)
        ]
        padding = self._rows * self.count - sum(self._padded)
        return jnp.pad(jnp.concatenate(parts), (0, padding)).reshape(self._rows, self.count)

    def _shards_of(self, x_RN: jax.Array) -> list[jax.Array]:
        """float32, what _rows_of() had them from."""
        *parts, _ = jnp.split(x_RN.reshape(-1), list(itertools.accumulate(self._padded)))
        return [
            part[:size].reshape(shape)
            for part, size, (shape, _) in zip(parts, self._sizes, self._shapes, strict=True)
        ]

    def _shards_of_row(self, x_1N: jax.Array, row: np.int32) -> list[jax.Array]:
        """The same of one row; zero elsewhere."""
        x_RN = jnp.zeros((self._rows, self.count), jnp.float32)
        return self._shards_of(x_RN.at[row].set(x_1N[0]))

    def _shared_out(
        self, residual_RN: jax.Array, of_total_RN: jax.Array, row: np.int32
    ) -> tuple[jax.Array, jax.Array]:
        """What this member begins with in both rounds, [R, N] and [1, N], where it owns `row` of
        several. What was lost of the totals of other rows goes with what it sends."""
        own_1N = of_total_RN[row][None]
        if self._rows > 1:
            of_total_RN = of_total_RN.at[row].set(0.0)
        # Where there is nothing to add, not even the sign of a zero changes.
        return jnp.where(of_total_RN == 0.0, residual_RN, residual_RN + of_total_RN), own_1N

    def _with_loss(
        self, x_RN: jax.Array, residual_RN: jax.Array, numbers: jax.Array, block_RC: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if self._error_feedback:
            x_RN += residual_RN
        encoded = self._codec.encode(x_RN, _key(numbers), block_RC)
        if not self._error_feedback:
            return encoded, residual_RN
        return encoded, x_RN - self._codec.decode(encoded, self.count)

    def _sum(self, encoded: jax.Array) -> jax.Array:
        total, *others = self._codec.decode(encoded, self.count)
        for other in others:
            total += other
        return total

    def _as_gradients(self, numbers: jax.Array) -> list[jax.Array]:
        return [
            shard.astype(dtype)
            for shard, (_, dtype) in zip(self._shards_of(numbers), self._shapes, strict=True)
        ]


_coding = functools.lru_cache(maxsize=64)(Coding)
"""A model has a few kinds of segments; a process trains one model after the other."""


class Lane:
    """One device's numbers of one segment: in a row of its own for every member that owns one."""

    def __init__(self, payload: Payload, device: Any, gang: Gang, rule: Rule) -> None:
        self._payload, self.device = payload, device
        self.rows = gang.num_members if gang.num_members > 2 else 1
        shapes = tuple(payload.shapes_on(device))
        self.coding = _coding(shapes, self.rows, rule.codec, rule.error_feedback)
        self.row_bytes = rule.codec.row_bytes(self.coding.count)
        self.own_row = np.int32(gang.member_index if self.rows > 1 else 0)
        self.blocks = self._numbered(rule.codec.block)
        """Numbers of the blocks, uint32 [R, C]."""

    def shards(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
        return self._payload.shards_on(self.device, arrays)

    def residuals(
        self, of_sums: Sequence[jax.Array] | None, of_totals: Sequence[jax.Array] | None
    ) -> tuple[jax.Array, jax.Array]:
        """[R, N] and [1, N] to begin with, of what was lost as gradients; None is nothing."""
        given = [
            self.coding.rows_of(self.shards(arrays)) if arrays else self._zeros()
            for arrays in (of_sums, of_totals)
        ]
        return self.coding.shared_out(*given, self.own_row)

    def shards_lost(self, residual: jax.Array, turn: int) -> list[jax.Array]:
        """Shards of gradients, float32, from the residual of a round."""
        if turn == 0:
            return self.coding.shards_of(residual)
        return self.coding.shards_of_row(residual, self.own_row)

    def _numbered(self, block: int) -> jax.Array:
        if block == 1:
            return jax.device_put(np.zeros((self.rows, 0), np.uint32), self.device)
        numbers = np.zeros(self.rows * self.coding.count // block, np.uint32)
        found = self._payload.blocks_on(self.device, block)
        numbers[: len(found)] = found
        return jax.device_put(numbers.reshape(self.rows, -1), self.device)

    def _zeros(self) -> jax.Array:
        zeros = np.zeros((self.rows, self.coding.count), np.float32)
        return jax.device_put(zeros, self.device)


def _key(numbers: jax.Array) -> jax.Array:
    seed, *others = numbers
    key = jax.random.key(seed)
    for number in others:
        key = jax.random.fold_in(key, number)
    return key
