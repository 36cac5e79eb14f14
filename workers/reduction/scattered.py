"""Every pod adds up its part of the gradient for all, and sends the sum on to all.

Round 0 takes part j of every pod's sums to pod j; round 1 takes the total of part j from pod j to
everyone. With equal parts a pod sends (P-1)/P of the gradient twice: 2(P-1)/P of it, the least
there is (Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, JPDC 2009); a pod on a slower
link has a smaller part, and the cuts change no bit. Where pods hold several subtrees of
the slot tree, round 0 takes each of them, so that the total has the bits of any other number of
pods.
"""

from __future__ import annotations

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np

from workers.exchange.base import StepKey
from workers.exchange.recycled_memory import RecycledMemory
from workers.exchange.tree import Node, reduce_tree
from workers.payload import Part
from workers.reduction.base import ExchangeClock, Gang, Gradients, Sums, add_arrays, flat, grouped

Runs = list[jax.Array]
"""A part, as one vector for every run of one dtype."""


class ScatteredReduction:
    """One thread waits for the devices and sends, one receives and adds this pod's parts, one
    receives everyone's totals and places them on the devices."""

    def __init__(self, gang: Gang) -> None:
        self.clock = ExchangeClock()
        self._gang = gang
        shares = gang.shares or [1] * gang.num_members
        self._parts = [layout.payload.parts(shares) for layout in gang.segments]
        self._sender = concurrent.futures.ThreadPoolExecutor(1, "send-gradients")
        self._adder = concurrent.futures.ThreadPoolExecutor(1, "add-gradients")
        self._receiver = concurrent.futures.ThreadPoolExecutor(1, "receive-gradients")
        # The receiver's alone. A step's totals are placed before those of the next are received.
        self._memory = RecycledMemory(2 * sum(layout.payload.num_bytes for layout in gang.segments))
        self._totals: dict[StepKey, concurrent.futures.Future[Gradients]] = {}

    def offer(self, key: StepKey, sums: Sums) -> None:
        sent = self._sender.submit(self._send, key, sums)
        added = self._adder.submit(self._reduce, key, sent)
        self._totals[key] = self._receiver.submit(self._collect, key, added)

    def total(self, key: StepKey) -> Gradients:
        return self._totals.pop(key).result()

    def applied(self) -> None:
        """Nothing is carried from step to step."""

    def member_state(self) -> dict[str, jax.Array]:
        return {}

    def link_bytes(self, key: StepKey) -> int:
        gang, parts = self._gang, self._parts[key.segment]
        num_nodes = len(gang.subtrees(key.step)[gang.member_index])
        theirs = num_nodes * sum(parts[peer].num_bytes for peer in gang.peers)
        return theirs + parts[gang.member_index].num_bytes * len(gang.peers)

    def residual_squares(self) -> list[jax.Array]:
        return []

    def close(self) -> None:
        self._sender.shutdown()
        self._adder.shutdown()
        self._receiver.shutdown()

    def _send(self, key: StepKey, sums: Sums) -> dict[Node, memoryview]:
        """Returns this pod's own part of every node."""
        gang, payload = self._gang, self._gang.segments[key.segment].payload
        mine = flat(sums)
        jax.block_until_ready(mine)
        self.clock.begin(key.step)
        size = len(mine) // len(sums)
        views = [payload.views(mine[at : at + size], 1) for at in range(0, len(mine), size)]
        parts = self._parts[key.segment]
        for peer in gang.peers:
            outgoing = [piece for node in views for piece in parts[peer].of(node)]
            gang.exchange.send(key, outgoing, [peer])
        self.clock.end(key.step)
        own = parts[gang.member_index]
        # Copied, so that nothing refers to the devices' memory any more.
        return {
            node: memoryview(bytearray().join(own.of(pieces)))
            for node, pieces in zip(sums, views, strict=True)
        }

    def _reduce(
        self, key: StepKey, sent: concurrent.futures.Future[dict[Node, memoryview]]
    ) -> memoryview:
        """Adds up this pod's part and sends the total on; returns it."""
        gang = self._gang
        part = self._parts[key.segment][gang.member_index]
        held = sent.result()
        held |= gang.receive(key, part.num_bytes)

        def runs(node: Node) -> Runs | None:
            return _on_device(part, held.pop(node)) if node in held else None

        total = [np.asarray(run) for run in reduce_tree(gang.root(key.step), runs, add_arrays)]
        views = [run.reshape(-1).view(np.uint8).data for run in total]
        gang.exchange.send(key.onward, views, gang.peers)
        return memoryview(bytearray().join(views))

    def _collect(self, key: StepKey, added: concurrent.futures.Future[memoryview]) -> Gradients:
        """Everyone's totals."""
        gang, layout = self._gang, self._gang.segments[key.segment]
        mine = added.result()
        parts = self._parts[key.segment]
        incoming = {peer: parts[peer].num_bytes for peer in gang.peers}
        received = gang.exchange.receive(key.onward, incoming)
        self.clock.end(key.step)
        whole = self._memory.give(layout.payload.num_bytes)
        for member, part in enumerate(parts):
            whole[part.start : part.stop] = received.get(member, mine)
        return grouped(layout.payload.arrays(whole), layout.group_sizes)


def _on_device(part: Part, data: memoryview) -> Runs:
    vectors, start = [], 0
    for dtype, num_bytes in part.runs:
        raw = np.frombuffer(data, np.uint8, num_bytes, start)
        vectors.append(jnp.asarray(raw.view(dtype)))
        start += num_bytes
    return vectors
