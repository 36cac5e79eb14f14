"""Pods exchange gradients after every step and hold the same bits at all times."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import jax

from workers.exchange.base import ExchangeError, GradientExchange, StepKey
from workers.exchange.tree import Node, subtrees
from workers.in_flight import Spent
from workers.orders import ExchangeRule, JobOrder
from workers.payload import Payload
from workers.program import METRICS, Group, Program, Segment
from workers.reduction.base import Add, Gradients, SegmentLayout, Sums, flat
from workers.reduction.choice import reduction_for
from workers.slot_gradient import Run
from workers.synchronisation import Agree, as_one, gang_of, member_node, member_nodes


class EveryStep:
    """A segment is offered as soon as it is complete, so that it travels while the next is
    computed. What is exposed is the time from when nothing is left to compute."""

    def __init__(
        self,
        order: JobOrder,
        program: Program,
        exchange: GradientExchange,
        run: Run,
        adds: list[Add],
        agree: Agree,
        lost: Mapping[str, jax.Array],
    ) -> None:
        """`adds` are the program's additions of two sums, by segment; `lost` is what is restored of
        what encoding lost."""
        self._order, self._run, self._agree = order, run, agree
        self._has_digest = "digest" in program.components
        self._subtrees = {p.num_slots: subtrees(p.num_slots, p.slots) for p in order.phases}
        segments = [
            _layout(program, segment, add)
            for segment, add in zip(program.segments, adds, strict=True)
        ]
        self._gang = gang_of(order, program, exchange, segments, self._subtrees_at)
        self._begin(order.exchange, lost)
        self._is_alone = self._gang.num_members == 1
        self._held_back: list[tuple[StepKey, Sums]] = []
        self._last_offered: list[jax.Array] = []

    def use(self, rule: ExchangeRule) -> None:
        """Exchange in this way from the next step on. Everything offered has been applied; what
        encoding lost is taken along, or added to the next step where nothing is kept."""
        lost = self._reduction.member_state()
        jax.block_until_ready(lost)
        self._reduction.close()
        self._begin(rule, lost)

    def offer(self, step: int, segment: int, sums: Sums) -> None:
        if not self._sends_nodes:
            add = self._gang.segments[segment].add
            sums = {member_node(self._order.member_index): as_one(sums, add)}
        self._last_offered = flat(sums)
        key = self._order.key(step, segment)
        if self._rule.overlap or self._is_alone:
            self._reduction.offer(key, sums)
        else:
            self._held_back.append((key, sums))

    def gradients(self, step: int, spent: Spent) -> list[Gradients] | None:
        if not self._is_alone:
            jax.block_until_ready(self._last_offered)
        self._last_offered = []
        while self._held_back:
            self._reduction.offer(*self._held_back.pop(0))
        try:
            total = self._totals(step, spent)
        except ExchangeError:
            # No host of the pod may apply what one of them lacks.
            self._agree(step, False)
            raise
        return total if self._agree(step, True) else None

    def updated(self, step: int, params: Group, spent: Spent) -> Group:
        self._reduction.applied()
        return params

    def digest(self, params: Group, optimizer: Group) -> jax.Array | None:
        return self._run("digest", params, optimizer)[0][0] if self._has_digest else None

    def shared_state(self, params: Group, optimizer: Group) -> list[jax.Array]:
        return [*params, *optimizer]

    def own_state(self, params: Group, optimizer: Group) -> dict[str, jax.Array]:
        return {}

    def losses(self) -> dict[str, jax.Array]:
        return self._reduction.member_state()

    def loss_squares(self) -> Sequence[jax.Array]:
        return self._reduction.residual_squares()

    def close(self) -> None:
        self._reduction.close()

    def _begin(self, rule: ExchangeRule, lost: Mapping[str, jax.Array]) -> None:
        self._rule = rule
        self._sends_nodes = rule.reproducible and rule.dtype == "float32"
        """Else one sum, which costs less where a pod's slots are not one node, and whose bits
        depend on the number of pods."""
        subtrees_at = self._subtrees_at if self._sends_nodes else self._sums_at
        self._gang = dataclasses.replace(self._gang, subtrees=subtrees_at)
        self._reduction = reduction_for(self._gang, rule, self._order.seed, lost)

    def _totals(self, step: int, spent: Spent) -> list[Gradients]:
        """The total of every segment."""
        keys = [self._order.key(step, segment) for segment in range(len(self._gang.segments))]
        start = time.perf_counter()
        if not self._is_alone:
            spent.waits_since = time.monotonic()
        total = [self._reduction.total(key) for key in keys]
        if not self._is_alone:
            spent.exposed_seconds = time.perf_counter() - start
            spent.exchange_seconds = self._reduction.clock.take(keys[0].step)
            spent.link_bytes = sum(self._reduction.link_bytes(key) for key in keys)
            spent.float32_bytes = self._gang.float32_bytes
        return total

    def _subtrees_at(self, step: int) -> list[list[Node]]:
        """Whose nodes of the slot tree are which, by member."""
        return self._subtrees[self._order.phase(step).num_slots]

    def _sums_at(self, step: int) -> list[list[Node]]:
        """The same when every member's share counts as one slot."""
        return member_nodes(self._order)


def _layout(program: Program, segment: Segment, add: Add) -> SegmentLayout:
    exact = [name for name in segment.groups if name == METRICS]
    assert [*segment.groups[-1:]] == exact or not exact, "metrics come last in their segment"
    return SegmentLayout(
        Payload(program.buffers(segment.groups)),
        program.gradients(segment),
        program.buffers(exact),
        tuple(len(program.groups[name]) for name in segment.groups),
        add,
    )
