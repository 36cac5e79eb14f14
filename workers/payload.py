"""Gradients as bytes for the link and back, shard by shard and without copies where there need be
none.

Host i talks to host i of the other pods, whose devices hold the same shards of the same arrays; so
what a host sends is its own distinct shards, in a fixed order, and what it receives goes to the
same places.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from workers.program import Buffer

Index = tuple[tuple[int, int], ...]

_Run = tuple[np.dtype[Any], int]


@dataclasses.dataclass(frozen=True, slots=True)
class _Shard:
    """A distinct local piece of one array and every local device that holds it."""

    bounds: Index
    shape: tuple[int, ...]
    devices: tuple[Any, ...]
    num_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of a payload, cut between elements."""

    start: int
    stop: int
    runs: tuple[tuple[np.dtype[Any], int], ...]
    """(dtype, bytes) of stretches of one dtype, in order; together all of it."""

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start

    def of(self, views: Sequence[memoryview]) -> list[memoryview]:
        """This part of the concatenation of views, without a copy."""
        pieces, at = [], 0
        for view in views:
            first, last = max(self.start - at, 0), min(self.stop - at, len(view))
            if first < last:
                pieces.append(view[first:last])
            at += len(view)
        return pieces


class Payload:
    """The layout of one contribution: local shards of a list of buffers, one after the other."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._shards = [_local_shards(buffer) for buffer in buffers]
        self.num_bytes = sum(shard.num_bytes for shards in self._shards for shard in shards)

    def parts(self, shares: Sequence[int]) -> list[Part]:
        """Parts whose sizes are nearly in proportion to the shares, together the whole."""
        runs, ends = self._runs(), list(itertools.accumulate(shares))
        cuts = [0, *(_cut(runs, self.num_bytes * end // ends[-1]) for end in ends[:-1])]
        stops = [*cuts[1:], self.num_bytes]
        return [
            Part(start, stop, tuple(_within(runs, start, stop)))
            for start, stop in zip(cuts, stops, strict=True)
        ]

    def _runs(self) -> list[_Run]:
        """The dtypes of the payload, neighbours of one dtype as one."""
        runs: list[_Run] = []
        for buffer, shards in zip(self._buffers, self._shards, strict=True):
            num_bytes = sum(shard.num_bytes for shard in shards)
            if runs and runs[-1][0] == buffer.dtype:
                num_bytes += runs.pop()[1]
            if num_bytes:
                runs.append((buffer.dtype, num_bytes))
        return runs

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
        pieces, offset = [], 0
        for buffer, shards in zip(self._buffers, self._shards, strict=True):
            for shard in shards:
                raw = np.frombuffer(data, np.uint8, shard.num_bytes, offset)
                pieces.append(raw.view(buffer.dtype).reshape(shard.shape))
                offset += shard.num_bytes
        return self._placed(pieces)

    @property
    def devices(self) -> list[Any]:
        """Those of this host that hold a shard first, in order."""
        first = [shard.devices[0] for shards in self._shards for shard in shards]
        return list(dict.fromkeys(first))

    def shapes_on(self, device: Any) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of the shards that `device` holds first, in order."""
        return [
            (shard.shape, buffer.dtype)
            for buffer, shards in zip(self._buffers, self._shards, strict=True)
            for shard in shards
            if shard.devices[0] == device
        ]

    def shards_on(self, device: Any, arrays: Sequence[jax.Array]) -> list[jax.Array]:
        """The shards that `device` holds first, on that device."""
        return [
            next(held.data for held in array.addressable_shards if held.device == device)
            for array, shards in zip(arrays, self._shards, strict=True)
            for shard in shards
            if shard.devices[0] == device
        ]

    def blocks_on(self, device: Any, block: int) -> np.ndarray:
        """A uint32 for each block of so many numbers in shards_on(), where every shard begins a
        block: another for each block of the pod's, the same at all hosts that hold one."""
        found, first = [], 0
        for buffer, shards in zip(self._buffers, self._shards, strict=True):
            everywhere = buffer.sharding.devices_indices_map(buffer.shape).values()
            distinct = sorted({_bounds(index, buffer) for index in everywhere})
            # Those of an array are equally large.
            count = -(-math.prod(shards[0].shape) // block)
            for shard in shards:
                if shard.devices[0] == device:
                    start = first + count * distinct.index(shard.bounds)
                    found.append(np.arange(start, start + count, dtype=np.uint32))
            first += count * len(distinct)
        return np.concatenate(found)

    def from_shards(self, shards_on: Mapping[Any, Sequence[jax.Array]]) -> list[jax.Array]:
        """Arrays from what shards_on() gave for every device."""
        left = {device: iter(shards) for device, shards in shards_on.items()}
        return self._placed(
            [next(left[shard.devices[0]]) for shards in self._shards for shard in shards]
        )

    def _placed(self, pieces: Sequence[np.ndarray | jax.Array]) -> list[jax.Array]:
        """Arrays from one piece for every distinct shard."""
        shards = (shard for shards in self._shards for shard in shards)
        on_device: dict[Any, list[np.ndarray | jax.Array]] = {}
        for piece, shard in zip(pieces, shards, strict=True):
            for device in shard.devices:
                on_device.setdefault(device, []).append(piece)
        # One call for all of a device costs half of one for each.
        placed = {device: iter(jax.device_put(held, device)) for device, held in on_device.items()}
        return [
            jax.make_array_from_single_device_arrays(
                buffer.shape,
                buffer.sharding,
                [next(placed[device]) for shard in shards for device in shard.devices],
            )
            for buffer, shards in zip(self._buffers, self._shards, strict=True)
        ]


def _cut(runs: Sequence[_Run], position: int) -> int:
    """The last end of an element at or before a position."""
    at = 0
    for dtype, num_bytes in runs:
        if position < at + num_bytes:
            return position - (position - at) % dtype.itemsize
        at += num_bytes
    return at


def _within(runs: Sequence[_Run], start: int, stop: int) -> Iterator[_Run]:
    at = 0
    for dtype, num_bytes in runs:
        inside = min(stop, at + num_bytes) - max(start, at)
        if inside > 0:
            yield dtype, inside
        at += num_bytes


def _bounds(index: tuple[slice, ...] | None, buffer: Buffer) -> Index:
    return tuple(s.indices(extent)[:2] for s, extent in zip(index or (), buffer.shape, strict=True))


def _local_shards(buffer: Buffer) -> list[_Shard]:
    """Distinct local shards in the order of their position in the array: the same at every pod."""
    devices_of: dict[Index, list[Any]] = {}
    for device, index in buffer.sharding.addressable_devices_indices_map(buffer.shape).items():
        devices_of.setdefault(_bounds(index, buffer), []).append(device)
    shards = []
    for bounds, devices in sorted(devices_of.items()):
        shape = tuple(stop - start for start, stop in bounds)
        num_bytes = math.prod(shape) * buffer.dtype.itemsize
        shards.append(_Shard(bounds, shape, tuple(devices), num_bytes))
    return shards
