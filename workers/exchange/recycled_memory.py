"""Memory for contributions, given out again once nothing refers to it any more.

A page that the kernel gives a process anew is zeroed first, and the first write to it is a fault:
together they cost a receiver as much as its copy does. Steps are alike, so each finds what the one
before it left.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np

# jax.device_put of memory that begins on such a boundary makes no copy of it on a CPU.
_ALIGNMENT = 64

_IDLE_STEPS = 2
"""A peer may be a step ahead, and then two steps take memory of the same sizes."""


class RecycledMemory:
    """Used by one thread at a time; memory comes back from any.

    What is given out and what waits to be given out again are together no more than `most_bytes`,
    or than what is given out alone. What has waited for two steps goes: sizes change where pods
    change over to another encoding.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._given_bytes = 0
        self._step = 0
        # With the step in which it came back, oldest first.
        self._idle: deque[tuple[int, np.ndarray]] = deque()
        # What refers to memory ends anywhere, in the middle of a call of this object also, so here
        # it is only put down; a deque takes it in one operation.
        self._returned: deque[np.ndarray] = deque()

    def give(self, num_bytes: int) -> memoryview:
        """Writable bytes with any content. They are the caller's for as long as the view, a slice
        of it or an array over one of them lives."""
        self._take_back()
        block = self._idle_block(num_bytes)
        if block is None:
            self._make_room(num_bytes)
            block = _aligned(num_bytes)
        self._given_bytes += num_bytes
        # Whoever keeps a view of this array keeps the array; over the block itself, numpy would
        # have views refer past it.
        given = np.frombuffer(block.data, np.uint8)
        weakref.finalize(given, self._returned.append, block).atexit = False
        return given.data

    def next_step(self) -> None:
        """Sizes may be others from now on."""
        self._take_back()
        self._step += 1
        while self._idle and self._idle[0][0] < self._step - _IDLE_STEPS:
            self._idle.popleft()

    def idle_bytes(self) -> int:
        """Waiting to be given out again."""
        self._take_back()
        return self._waiting_bytes()

    def _waiting_bytes(self) -> int:
        return sum(len(block) for _, block in self._idle)

    def _idle_block(self, num_bytes: int) -> np.ndarray | None:
        for position, (_, block) in enumerate(self._idle):
            if len(block) == num_bytes:
                del self._idle[position]
                return block
        return None

    def _take_back(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._given_bytes -= len(block)
            self._idle.append((self._step, block))
        self._make_room(0)

    def _make_room(self, num_bytes: int) -> None:
        """Lets go of what has waited longest."""
        while self._idle and self._given_bytes + self._waiting_bytes() + num_bytes > (
            self._most_bytes
        ):
            self._idle.popleft()


def _aligned(num_bytes: int) -> np.ndarray:
    block = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + num_bytes]
