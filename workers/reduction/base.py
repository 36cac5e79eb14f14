"""A segment's gradients, summed over the gang: the same bits at all pods.

A segment is offered as soon as it is dispatched, and its total is asked for when nothing is left to
do without it; between the two, a reduction copies, sends and receives on threads of its own.
Which bytes go where is the reduction's: workers.reduction.direct for two pods,
workers.reduction.scattered for more.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax

from workers.exchange.base import GradientExchange, StepKey
from workers.exchange.tree import Node
from workers.payload import Payload
from workers.program import Buffer, Group
from workers.reduction.residuals import WholeGradients

Gradients = list[Group]
"""The groups of one segment, summed over some slots."""

Sums = Mapping[Node, Gradients]
"""By node of the slot tree, in slot order."""

Add = Callable[[Gradients, Gradients], Gradients]
"""The program's own addition of two sums of one segment; the left one is donated."""


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentLayout:
    """How one segment is laid out in bytes, and how it is added."""

    payload: Payload
    encoded_buffers: Sequence[Buffer]
    """Gradients, which may be encoded."""
    exact_buffers: Sequence[Buffer]
    """What comes behind them and must not be: sums of metrics."""
    group_sizes: tuple[int, ...]
    """Arrays of each group."""
    add: Add


@dataclasses.dataclass(frozen=True)
class Gang:
    """What all reductions of one generation share."""

    exchange: GradientExchange
    member_index: int
    num_members: int
    segments: Sequence[SegmentLayout]
    subtrees: Callable[[int], list[list[Node]]]
    """Whose nodes of the slot tree are which at a step, by member."""
    whole: WholeGradients
    shares: Sequence[int] = ()
    """Of a float32 gradient, how much each of more than two members adds up, in proportion; none
    is equally much."""

    @property
    def float32_bytes(self) -> int:
        """The least that this host sends to its peers for a step in float32: 2(P-1)/P of what it
        holds of the gradients."""
        once = sum(layout.payload.num_bytes for layout in self.segments)
        return 2 * (self.num_members - 1) * once // self.num_members

    @property
    def peers(self) -> list[int]:
        """All members but this one."""
        return [index for index in range(self.num_members) if index != self.member_index]

    def receive(self, key: StepKey, num_bytes: int) -> dict[Node, memoryview]:
        """What the peers send of a key, node by node, each of so many bytes."""
        everyone = self.subtrees(key.step)
        incoming = {peer: num_bytes * len(everyone[peer]) for peer in self.peers}
        received = self.exchange.receive(key, incoming) if incoming else {}
        return {
            node: data[position * num_bytes : (position + 1) * num_bytes]
            for peer, data in received.items()
            for position, node in enumerate(everyone[peer])
        }

    def root(self, step: int) -> Node:
        """The node that all slots of a step are under."""
        return (0, self.subtrees(step)[-1][-1][1])


class ExchangeClock:
    """How long the exchange of a step lasts, from the first byte offered to the last one received,
    or handed over to be sent. Told by the threads that do it, one of which may be at the next step
    while the time of this one is taken."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began: dict[int, float] = {}
        self._ended: dict[int, float] = {}

    def begin(self, step: int) -> None:
        """Something of a step is sent now."""
        with self._lock:
            self._began.setdefault(step, self._clock())

    def end(self, step: int) -> None:
        """Something of the step was received, or handed over to be sent."""
        with self._lock:
            self._ended[step] = self._clock()

    def take(self, step: int) -> float:
        """Seconds of a step whose totals were all taken; 0 for one that nothing was sent of. It and
        those before it are forgotten."""
        with self._lock:
            began, ended = self._began.get(step), self._ended.get(step)
            for times in (self._began, self._ended):
                for past in [known for known in times if known <= step]:
                    del times[past]
        return 0.0 if began is None or ended is None else ended - began


class Reduction(Protocol):
    """Used by one thread. Keys come in order, those of a step before those of the next."""

    clock: ExchangeClock

    def offer(self, key: StepKey, sums: Sums) -> None:
        """This pod's sums of a segment over its nodes, which may still be in the making. Returns at
        once; the arrays are the reduction's from here on."""
        ...

    def total(self, key: StepKey) -> Gradients:
        """The sum over all slots, the same bits at all pods; once for every key that was offered.

        Raises what GradientExchange.receive raises, and whatever the devices raise.
        """
        ...

    def applied(self) -> None:
        """Everything whose total was taken, which is all that was offered, has become part of the
        state."""
        ...

    def member_state(self) -> dict[str, jax.Array]:
        """What this pod carries from step to step, as of the last applied one: copies, by names of
        WholeGradients.member_arrays."""
        ...

    def link_bytes(self, key: StepKey) -> int:
        """What this host sends to its peers for a key."""
        ...

    def residual_squares(self) -> Sequence[jax.Array]:
        """Numbers whose sum is the squared norm of what encoding lost so far and is carried on;
        none where nothing is."""
        ...

    def close(self) -> None:
        """Wait for what is under way; abort the exchange's generation first if that may hang."""
        ...


@jax.jit
def add_arrays(left: list[jax.Array], right: list[jax.Array]) -> list[jax.Array]:
    """Elementwise, so its bits are those of the program's own additions whatever the shapes."""
    return [a + b for a, b in zip(left, right, strict=True)]


def grouped(arrays: Sequence, group_sizes: Sequence[int]) -> Gradients:
    """Arrays in a row as the groups they make up."""
    groups, start = [], 0
    for size in group_sizes:
        groups.append(list(arrays[start : start + size]))
        start += size
    return groups


def flat(sums: Sums) -> list:
    """All arrays of all nodes in a row."""
    return [array for groups in sums.values() for group in groups for array in group]
