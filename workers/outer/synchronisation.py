"""Pods train on their own and exchange every so often how far they came.

Inner steps use a pod's own gradients and cross no link. The state `outer`, an anchor and its
momentum, is the same bits at all pods at all times; parameters and the inner optimizer are a pod's
own, until the last step leaves everybody with the same parameters. A fragment that is sent after
one step and applied some steps later travels in between; when it is applied follows from the
schedule and never from when it arrived, so bits do not depend on the link.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from workers.exchange.base import ExchangeAborted, GradientExchange
from workers.in_flight import Spent
from workers.member_state import Restored
from workers.orders import JobOrder
from workers.outer.schedule import OuterStep, Schedule
from workers.payload import Payload
from workers.program import Buffer, Group, Outer, Program
from workers.reduction.base import Add, Gradients, SegmentLayout, Sums, add_arrays
from workers.reduction.choice import reduction_for
from workers.reduction.residuals import losses_in
from workers.slot_gradient import Run
from workers.synchronisation import Agree, as_one, gang_of, member_node, member_nodes


class OuterSynchronisation:
    """Gradients are this pod's own; updated() sends, receives and applies fragments."""

    def __init__(
        self,
        order: JobOrder,
        program: Program,
        exchange: GradientExchange,
        run: Run,
        adds: Sequence[Add],
        agree: Agree,
        *,
        outer: Outer,
        params: Group,
        last_step: int,
        restored: Restored | None = None,
    ) -> None:
        """`adds` are the program's additions of two sums of gradients, by segment; `params` are
        where the anchor begins, unless there is something restored."""
        self._order, self._run, self._adds, self._agree = order, run, adds, agree
        self._outer, self._groups = outer, program.groups
        self._schedule = Schedule(outer.every, outer.delay, len(outer.fragments), last_step)
        self._weight_sharding = program.groups["weight"][0].sharding
        fragments = [_layout(program, fragment.group) for fragment in outer.fragments]
        gang = gang_of(order, program, exchange, fragments, lambda _number: member_nodes(order))
        self._gang, self._has_peers = gang, bool(gang.peers)
        lost = losses_in(restored.own) if restored else {}
        self._reduction = reduction_for(gang, order.exchange, order.seed, lost)
        self._is_multi_host = jax.process_count() > 1
        self._own: list[Gradients] = []
        self._sent: dict[int, Group] = {}
        """By fragment, what is sent and not applied yet; a checkpoint has it, to be sent again."""
        self._to_send_again: OuterStep | None = None
        if restored is None:
            self._state: Group = run(outer.init, params)[0]
        else:
            self._state = [restored.shared[name] for name in program.state_buffers]
            self._take_up(order.first_step - 1, program, restored.own)

    def offer(self, step: int, segment: int, sums: Sums) -> None:
        self._own.append(as_one(sums, self._adds[segment]))

    def gradients(self, step: int, spent: Spent) -> list[Gradients]:
        own, self._own = self._own, []
        return own

    def updated(self, step: int, params: Group, spent: Spent) -> Group | None:
        """A host that misses a fragment stops here, and no other is left waiting for it: what is
        done between pods crosses no devices of a pod, and no host begins the next step before all
        have agreed on this one."""
        try:
            params = self._synchronised(step, params, spent)
        except ExchangeAborted:
            if not self._is_multi_host:
                raise
            self._agree(step, False)
            return None
        return params if self._agree(step, True) else None

    def digest(self, params: Group, optimizer: Group) -> jax.Array:
        return self._run(self._outer.digest, self._state)[0][0]

    def shared_state(self, params: Group, optimizer: Group) -> list[jax.Array]:
        return list(self._state)

    def own_state(self, params: Group, optimizer: Group) -> dict[str, jax.Array]:
        groups = {"params": params, "optimizer": optimizer}
        for index, fragment in self._sent.items():
            groups[f"sent/{self._outer.fragments[index].group}"] = fragment
        return {
            f"{group}/{buffer.name}": array
            for group, arrays in groups.items()
            for buffer, array in zip(self._groups[group.removeprefix("sent/")], arrays, strict=True)
        }

    def losses(self) -> dict[str, jax.Array]:
        return self._reduction.member_state()

    def loss_squares(self) -> Sequence[jax.Array]:
        return self._reduction.residual_squares()

    def close(self) -> None:
        self._reduction.close()

    def _synchronised(self, step: int, params: Group, spent: Spent) -> Group:
        sent, due = self._schedule.sent_after(step), self._schedule.applied_after(step)
        spent.float32_bytes = self._gang.float32_bytes
        if self._to_send_again is not None:
            self._offer(self._to_send_again, spent)
            self._to_send_again = None
        for outer_step in due:
            if outer_step != sent:
                params = self._apply(outer_step, params, spent)
        if sent is not None:
            self._send(sent, params, spent)
            if sent in due:
                params = self._apply(sent, params, spent)
        return params

    def _send(self, outer_step: OuterStep, params: Group, spent: Spent) -> None:
        phase = self._order.phase(outer_step.sent_after)
        share = len(phase.slots[self._order.member_index]) / phase.num_slots
        weight = [jax.device_put(np.float32(share), self._weight_sharding)]
        for index in outer_step.fragments:
            component = self._outer.fragments[index].gradient
            self._sent[index] = self._run(component, params, self._state, weight)[0]
        self._offer(outer_step, spent)

    def _offer(self, outer_step: OuterStep, spent: Spent) -> None:
        for index in outer_step.fragments:
            key = self._order.key(outer_step.number, index)
            mine = {member_node(self._order.member_index): [self._sent[index]]}
            self._reduction.offer(key, mine)
            spent.link_bytes += self._reduction.link_bytes(key)

    def _apply(self, outer_step: OuterStep, params: Group, spent: Spent) -> Group:
        total = self._totals(outer_step, params, spent)
        groups = [group for gradients in total for group in gradients]
        component = self._outer.finish
        if not outer_step.is_last:
            component = self._outer.fragments[outer_step.fragments[0]].update
        params, self._state = self._run(component, params, self._state, *groups)
        self._reduction.applied()
        self._sent = {}
        return params

    def _take_up(self, step: int, program: Program, own: Mapping[str, jax.Array]) -> None:
        """What was under way after the step that is gone on from is sent again. Where this pod has
        none of it, since fewer pods wrote it, the others have all of the sum."""
        self._to_send_again = self._schedule.in_flight_after(step)
        if self._to_send_again is None:
            return
        for index in self._to_send_again.fragments:
            group = self._outer.fragments[index].group
            self._sent[index] = [
                own[name] if (name := f"sent/{group}/{buffer.name}") in own else _zeros(buffer)
                for buffer in program.groups[group]
            ]

    def _totals(self, outer_step: OuterStep, params: Group, spent: Spent) -> list[Gradients]:
        if self._has_peers:
            # What is still to be computed is no time spent waiting for the link.
            jax.block_until_ready(params)
            spent.waits_since = time.monotonic()
        start = time.perf_counter()
        keys = [self._order.key(outer_step.number, index) for index in outer_step.fragments]
        total = [self._reduction.total(key) for key in keys]
        if self._has_peers:
            spent.waits_since = None
            spent.exposed_seconds += time.perf_counter() - start
            spent.exchange_seconds += self._reduction.clock.take(outer_step.number)
        return total


def _zeros(buffer: Buffer) -> jax.Array:
    return jax.device_put(np.zeros(buffer.shape, buffer.dtype), buffer.sharding)


def _layout(program: Program, group: str) -> SegmentLayout:
    buffers = program.groups[group]
    return SegmentLayout(Payload(buffers), buffers, [], (len(buffers),), _add)


def _add(left: Gradients, right: Gradients) -> Gradients:
    return [add_arrays(list(a), list(b)) for a, b in zip(left, right, strict=True)]
