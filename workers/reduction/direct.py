"""Every pod sends its sums to every other, and each finishes the tree itself.

For two pods no scheme sends less: each sends its gradient once, G bytes, which is 2(P-1)/P of it
for P = 2, and after one trip over the link. For one pod it sends nothing.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses

import jax

from workers.exchange.base import StepKey
from workers.exchange.tree import reduce_tree
from workers.reduction.base import ExchangeClock, Gang, Gradients, Sums, flat, grouped


@dataclasses.dataclass(frozen=True, slots=True)
class _Pending:
    sums: Sums
    sent: concurrent.futures.Future[None]
    received: concurrent.futures.Future[Sums]


class DirectReduction:
    """One thread waits for the devices and sends, one receives and places what came on the devices;
    adding is the caller's."""

    def __init__(self, gang: Gang) -> None:
        self.clock = ExchangeClock()
        self._gang = gang
        self._sender = concurrent.futures.ThreadPoolExecutor(1, "send-gradients")
        self._receiver = concurrent.futures.ThreadPoolExecutor(1, "receive-gradients")
        self._offered: dict[StepKey, _Pending] = {}

    def offer(self, key: StepKey, sums: Sums) -> None:
        sent = self._sender.submit(self._send, key, sums)
        self._offered[key] = _Pending(sums, sent, self._receiver.submit(self._receive, key))

    def total(self, key: StepKey) -> Gradients:
        offered = self._offered.pop(key)
        offered.sent.result()
        held = {**offered.sums, **offered.received.result()}
        gang, layout = self._gang, self._gang.segments[key.segment]
        return reduce_tree(gang.root(key.step), lambda node: held.pop(node, None), layout.add)

    def applied(self) -> None:
        """Nothing is carried from step to step."""

    def member_state(self) -> dict[str, jax.Array]:
        return {}

    def link_bytes(self, key: StepKey) -> int:
        gang = self._gang
        once = gang.segments[key.segment].payload.num_bytes
        return once * len(gang.subtrees(key.step)[gang.member_index]) * len(gang.peers)

    def residual_squares(self) -> list[jax.Array]:
        return []

    def close(self) -> None:
        self._sender.shutdown()
        self._receiver.shutdown()

    def _send(self, key: StepKey, sums: Sums) -> None:
        gang = self._gang
        if not gang.peers:
            return
        mine = flat(sums)
        jax.block_until_ready(mine)
        self.clock.begin(key.step)
        views = gang.segments[key.segment].payload.views(mine, len(sums))
        gang.exchange.send(key, views, gang.peers)
        self.clock.end(key.step)

    def _receive(self, key: StepKey) -> Sums:
        gang, layout = self._gang, self._gang.segments[key.segment]
        if not gang.peers:
            return {}
        received = gang.receive(key, layout.payload.num_bytes)
        self.clock.end(key.step)
        return {
            node: grouped(layout.payload.arrays(data), layout.group_sizes)
            for node, data in received.items()
        }
