"""One generation of a job at one host: its state on the devices, and one step of it.

A step is a transaction: nothing of the state is donated before apply_update, which starts only when
every contribution is there and all hosts of the pod have agreed; whatever fails earlier leaves the
state of the step before intact. Gradients are summed over the fixed slot tree, segment by segment,
by additions whose bits do not depend on where they are made; so neither the number of pods nor what
overlaps changes the bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from workers.exchange.agreement import PodAgreement
from workers.exchange.base import ExchangeAborted, GradientExchange, StepKey
from workers.exchange.tree import Node, SlotFold, maximal_subtrees
from workers.member_state import MemberArray
from workers.orders import BatchPhase, JobOrder, StepRecord
from workers.payload import Payload
from workers.program import METRICS, Group, Program, Segment
from workers.reduction.base import Add, Gang, Gradients, SegmentLayout, Sums, flat
from workers.reduction.choice import reduction_for
from workers.reduction.residuals import WholeGradients
from workers.slot_gradient import SlotGradient


class BatchSource(Protocol):
    """Host arrays of a step's slots, one tuple in group order per slot of this pod."""

    def get(self, step: int) -> Sequence[tuple[np.ndarray, ...]]: ...

    def close(self) -> None: ...


@dataclasses.dataclass(slots=True)
class Spent:
    """What one step cost besides computing."""

    exchange_seconds: float = 0.0
    exposed_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    pause_seconds: float = 0.0
    """Between the step before and this one."""
    link_bytes: int = 0
    float32_bytes: int = 0
    """What a float32 exchange of the same takes at least."""


@dataclasses.dataclass(slots=True)
class StepInFlight:
    """An applied step whose numbers are still on the devices."""

    step: int
    time: float
    seconds: float
    spent: Spent
    record: jax.Array
    digest: jax.Array | None
    residual_squares: Sequence[jax.Array] = ()
    """Taken together with the digest."""

    def settle(self) -> StepRecord:
        """Read the numbers; waits for the devices."""
        spent = self.spent
        state_sha256 = b""
        if self.digest is not None:
            state_sha256 = _sha256(self.digest)
        return StepRecord(
            step=self.step,
            time=self.time,
            values=np.asarray(self.record).tolist(),
            seconds=self.seconds,
            exchange_seconds=spent.exchange_seconds,
            exposed_seconds=spent.exposed_seconds,
            data_wait_seconds=spent.data_wait_seconds,
            pause_seconds=spent.pause_seconds,
            link_bytes=spent.link_bytes,
            float32_bytes=spent.float32_bytes,
            residual_norm=_norm(self.residual_squares),
            state_sha256=state_sha256,
        )


def subtrees(phase: BatchPhase) -> list[list[Node]]:
    """The largest whole subtrees of the slot tree in each member's slots."""
    return [maximal_subtrees(phase.num_slots, mine.start, mine.stop) for mine in phase.slots]


def _sha256(lanes: jax.Array) -> bytes:
    return hashlib.sha256(np.asarray(lanes).tobytes()).digest()


def _norm(squares: Sequence[jax.Array]) -> float | None:
    return math.sqrt(sum(float(square) for square in squares)) if squares else None


def member_arrays(program: Program) -> dict[str, MemberArray]:
    """What a training may be given of a checkpoint as its member's own state, by name."""
    return WholeGradients(program).member_arrays()


class Training:
    """State and step of one generation. Used by the executor's thread only."""

    def __init__(
        self,
        order: JobOrder,
        program: Program,
        batches: BatchSource | None,
        exchange: GradientExchange,
        agreement: PodAgreement,
        restored: Mapping[str, jax.Array] | None = None,
        target_steps: int | None = None,
        member_state: Mapping[str, jax.Array] | None = None,
    ) -> None:
        """`target_steps` are those the data lasts for, when they are fewer than the order's.
        `restored` is the state to start from, by the names of Program.state_buffers; without it,
        the state is initialised from the order's seed. `member_state` is what is restored of this
        member alone, some or all of the names of member_arrays(); what is missing begins anew."""
        self._order = order
        self._program = program
        self._batches = batches
        self._agreement = agreement
        self._subtrees = {phase.num_slots: subtrees(phase) for phase in order.phases}
        rule = order.exchange
        self._sends_nodes = rule.reproducible and rule.dtype == "float32"
        """Else one sum, which costs less where a pod's slots are not one node, and whose bits
        depend on the number of pods."""
        self._gradient = SlotGradient(program, self._run)
        gang = Gang(
            exchange=exchange,
            member_index=order.member_index,
            num_members=len(order.members),
            segments=[self._layout(segment) for segment in program.segments],
            subtrees=self._subtrees_at if self._sends_nodes else self._sums_at,
            whole=WholeGradients(program),
        )
        self._gang = gang
        self._reduction = reduction_for(gang, rule, order.seed, member_state or {})
        self._is_alone = gang.num_members == 1
        self._is_multi_host = jax.process_count() > 1
        # Several executions with collectives in flight deadlock XLA's CPU rendezvous, so a host
        # that shares a mesh there waits for each; a lone device or an accelerator may run ahead.
        on_cpu = jax.local_devices()[0].platform == "cpu"
        self._waits_for_each = on_cpu and jax.device_count() > 1
        self._previous: jax.Array | None = None
        self.target_steps = order.target_steps if target_steps is None else target_steps
        self.is_leaving = False
        """The hosts of the pod have agreed to leave the job after the last step."""
        if restored is None:
            sharding = program.groups["seed"][0].sharding
            seed = jax.device_put(np.uint32(order.seed), sharding)
            self._params, self._optimizer = self._run("init", [seed])
        else:
            state = [restored[name] for name in program.state_buffers]
            num_params = len(program.groups["params"])
            self._params, self._optimizer = state[:num_params], state[num_params:]
        jax.block_until_ready((self._params, self._optimizer))
        self._last_end = time.perf_counter()
        self._paused_seconds = 0.0

    @property
    def state(self) -> list[jax.Array]:
        """Parameters and optimizer state after the last applied step."""
        return [*self._params, *self._optimizer]

    def named_state(self) -> dict[str, jax.Array]:
        """The state by the names of Program.state_buffers."""
        return dict(zip(self._program.state_buffers, self.state, strict=True))

    def member_state(self) -> dict[str, jax.Array]:
        """What this member has for itself after the last applied step, by name: copies, which
        nothing that training does later changes or donates, and may be in the making. The same
        names at all members of a gang, and at every save of one."""
        return self._reduction.member_state()

    def state_sha256(self) -> bytes:
        """Digest of the state that all members hold alike; empty when the program has none. Waits
        for the devices."""
        if "digest" not in self._program.components:
            return b""
        lanes = self._run("digest", self._params, self._optimizer)[0][0]
        return _sha256(lanes)

    def begin(self) -> None:
        """The first step's clock starts now."""
        self._last_end = time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """For what is done between two steps: counted to the next one, under its own name."""
        jax.block_until_ready(self.state)
        start = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - start

    def evaluate(self, batch: tuple[np.ndarray, ...]) -> float:
        """Mean loss of a slot, nats per token, with the parameters as they are. Waits for it."""
        metrics = self._run("evaluate", self._params, self._on_devices(batch))[0]
        names = [buffer.name for buffer in self._program.groups["metrics"]]
        return float(np.asarray(metrics[names.index("loss")]))

    def close(self) -> None:
        """Stop preparing batches and end the reduction, whose generation must be over where peers
        may be waited for; the state goes with the object."""
        self._reduction.close()
        if self._batches is not None:
            self._batches.close()

    def step(self, step: int) -> StepInFlight | None:
        """Apply one step. None when the pod agreed not to; the state is then untouched.

        Raises ExchangeError in a pod of one host, and whatever the devices raise.
        """
        spent = Spent(pause_seconds=self._paused_seconds)
        self._paused_seconds = 0.0
        total: list[Gradients] = []
        if self._program.has_gradients:
            last_offered = self._offer_own_sums(step, spent)
            if not self._is_alone:
                jax.block_until_ready(last_offered)
            gathered = self._gather(step, spent)
            if not self._agree(step, gathered is not None):
                return None
            total = gathered or []
        return self._apply(step, total, spent)

    def _offer_own_sums(self, step: int, spent: Spent) -> list[jax.Array]:
        """Compute this pod's slots and offer the sums of every segment as they become complete.
        Returns arrays that are there when all is computed."""
        batches: Sequence[tuple[np.ndarray, ...]] = ()
        if self._batches is not None:
            start = time.perf_counter()
            batches = self._batches.get(step)
            spent.data_wait_seconds = time.perf_counter() - start
        mine = self._subtrees_at(step)[self._order.member_index]
        folds = [SlotFold(mine, layout.add) for layout in self._gang.segments]
        held_back: list[tuple[StepKey, Sums]] = []
        last: list[jax.Array] = []
        for position in range(len(self._order.my_slots(step))):
            batch = self._on_devices(batches[position]) if batches else []
            for segment, gradients in self._gradient.of(self._params, batch):
                sums = folds[segment].add(gradients)
                if sums is None:
                    continue
                if not self._sends_nodes:
                    sums = self._as_one(sums, self._gang.segments[segment].add)
                last = flat(sums)
                held_back.append((self._key(step, segment), sums))
                if self._order.exchange.overlap or self._is_alone:
                    self._reduction.offer(*held_back.pop())
        if held_back:
            jax.block_until_ready(last)
        for key, sums in held_back:
            self._reduction.offer(key, sums)
        return last

    def _subtrees_at(self, step: int) -> list[list[Node]]:
        """Whose nodes of the slot tree are which, by member."""
        return self._subtrees[self._order.phase(step).num_slots]

    def _sums_at(self, step: int) -> list[list[Node]]:
        """The same when every member's share counts as one slot."""
        return [[(member, member + 1)] for member in range(len(self._order.members))]

    def _as_one(self, sums: Sums, add: Add) -> Sums:
        member = self._order.member_index
        return {(member, member + 1): functools.reduce(add, sums.values())}

    def _gather(self, step: int, spent: Spent) -> list[Gradients] | None:
        """The total of every segment; None when aborted in a pod of several hosts."""
        start = time.perf_counter()
        try:
            total = [
                self._reduction.total(self._key(step, segment))
                for segment in range(len(self._gang.segments))
            ]
        except ExchangeAborted:
            if self._is_multi_host:
                return None
            raise
        if not self._is_alone:
            spent.exposed_seconds = time.perf_counter() - start
            spent.exchange_seconds = self._reduction.clock.seconds()
            spent.link_bytes = self._reduction.link_bytes(step)
            spent.float32_bytes = self._gang.float32_bytes
        return total

    def _layout(self, segment: Segment) -> SegmentLayout:
        groups = self._program.groups
        exact = [name for name in segment.groups if name == METRICS]
        assert [*segment.groups[-1:]] == exact or not exact, "metrics come last in their segment"
        return SegmentLayout(
            Payload(self._program.buffers(segment.groups)),
            self._program.gradients(segment),
            self._program.buffers(exact),
            tuple(len(groups[name]) for name in segment.groups),
            lambda left, right: self._run(segment.accumulate, *left, *right),
        )

    def _agree(self, step: int, holds_all: bool) -> bool:
        """Whether the whole pod applies the step; a pod of one host need not ask."""
        if not self._is_multi_host:
            return holds_all
        agreement = self._agreement.agree(self._key(step, 0), holds_all)
        self.is_leaving = agreement.leave or not agreement.apply
        return agreement.apply

    def _apply(self, step: int, total: list[Gradients], spent: Spent) -> StepInFlight:
        groups = [group for gradients in total for group in gradients]
        self._params, self._optimizer, record = self._run(
            "apply_update", self._params, self._optimizer, *groups
        )
        digest = self._digest(step)
        if self._previous is not None:
            # One step of run-ahead hides dispatch; more would only hide how long steps take.
            self._previous.block_until_ready()
        self._previous = record[0]
        self._reduction.applied()
        residuals = self._reduction.residual_squares() if digest is not None else ()
        end = time.perf_counter()
        seconds, self._last_end = end - self._last_end, end
        return StepInFlight(step, time.time(), seconds, spent, record[0], digest, residuals)

    def _digest(self, step: int) -> jax.Array | None:
        order = self._order
        if not order.digest_every:
            return None
        if step % order.digest_every and step != self.target_steps:
            return None
        return self._run("digest", self._params, self._optimizer)[0][0]

    def _run(self, component: str, *groups: Group) -> list[Group]:
        outputs = self._program.components[component](*groups)
        if self._waits_for_each:
            jax.block_until_ready(outputs)
        return outputs

    def _on_devices(self, rows: tuple[np.ndarray, ...]) -> list[jax.Array]:
        """Each device gets its rows of the slot."""
        return [
            jax.make_array_from_callback(buffer.shape, buffer.sharding, array.__getitem__)
            for buffer, array in zip(self._program.groups["batch"], rows, strict=True)
        ]

    def _key(self, step: int, segment: int) -> StepKey:
        assignment = self._order.assignment
        return StepKey(assignment.job, assignment.generation, step, segment)
