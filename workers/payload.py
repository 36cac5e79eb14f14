"""Gradients as bytes for the link and back, shard by shard and without copies where there need be
none.

Host i talks to host i of the other pods, whose devices hold the same shards of the same arrays; so
what a host sends is its own distinct shards, in a fixed order, and what it receives goes to the
same places.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from workers.program import Buffer

Index = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Shard:
    """A distinct local piece of one array and every local device that holds it."""

    shape: tuple[int, ...]
    devices: tuple[Any, ...]
    num_bytes: int


class Payload:
    """The layout of one contribution: local shards of a list of buffers, one after the other."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._shards = [_local_shards(buffer) for buffer in buffers]
        self.num_bytes = sum(shard.num_bytes for shards in self._shards for shard in shards)

    def views(self, arrays: Sequence[jax.Array], repeats: int) -> list[memoryview]:
        """The bytes of arrays that match the buffers `repeats` times over; they must be computed.

        The views keep the arrays' memory; drop them before the arrays are donated.
        """
        views = []
        for array, shards in zip(arrays, self._shards * repeats, strict=True):
            by_device = {shard.device: shard.data for shard in array.addressable_shards}
            for shard in shards:
                data = np.ascontiguousarray(by_device[shard.devices[0]])
                views.append(data.reshape(-1).view(np.uint8).data)
        return views

    def arrays(self, data: memoryview) -> list[jax.Array]:
        """Arrays on this host's devices from a peer's bytes."""
        arrays, offset = [], 0
        for buffer, shards in zip(self._buffers, self._shards, strict=True):
            pieces = []
            for shard in shards:
                raw = np.frombuffer(data, np.uint8, shard.num_bytes, offset)
                piece = raw.view(buffer.dtype).reshape(shard.shape)
                pieces += [jax.device_put(piece, device) for device in shard.devices]
                offset += shard.num_bytes
            arrays.append(
                jax.make_array_from_single_device_arrays(buffer.shape, buffer.sharding, pieces)
            )
        return arrays


def _local_shards(buffer: Buffer) -> list[_Shard]:
    """Distinct local shards in the order of their position in the array: the same at every pod."""
    devices_of: dict[Index, list[Any]] = {}
    for device, index in buffer.sharding.addressable_devices_indices_map(buffer.shape).items():
        bounds = tuple(
            s.indices(extent)[:2] for s, extent in zip(index or (), buffer.shape, strict=True)
        )
        devices_of.setdefault(bounds, []).append(device)
    shards = []
    for bounds, devices in sorted(devices_of.items()):
        shape = tuple(stop - start for start, stop in bounds)
        num_bytes = math.prod(shape) * buffer.dtype.itemsize
        shards.append(_Shard(shape, tuple(devices), num_bytes))
    return shards
