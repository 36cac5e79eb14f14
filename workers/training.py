"""One generation of a job at one host: its state on the devices, and one step of it.

A step is a transaction: nothing of the state is donated before apply_update, which starts only when
every contribution is there and all hosts of the pod have agreed; whatever fails earlier leaves the
state of the step before intact. Gradients are summed over the fixed slot tree by the program's own
accumulate, wherever a partial sum was made, so the number of pods does not change the bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from workers.exchange.agreement import PodAgreement
from workers.exchange.base import ExchangeAborted, GradientExchange, StepKey
from workers.exchange.tree import Node, maximal_subtrees, reduce_tree
from workers.orders import BatchPhase, JobOrder, StepRecord
from workers.payload import Payload
from workers.program import Group, Program

Sums = dict[Node, list[Group]]
"""[gradients, metrics] summed over nodes of the slot tree."""


class BatchSource(Protocol):
    """Host arrays of a step's slots, one tuple in group order per slot of this pod."""

    def get(self, step: int) -> Sequence[tuple[np.ndarray, ...]]: ...

    def close(self) -> None: ...


@dataclasses.dataclass(slots=True)
class Spent:
    """What one step cost besides computing."""

    exchange_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    pause_seconds: float = 0.0
    """Between the step before and this one."""
    link_bytes: int = 0


@dataclasses.dataclass(slots=True)
class StepInFlight:
    """An applied step whose numbers are still on the devices."""

    step: int
    time: float
    seconds: float
    spent: Spent
    record: jax.Array
    digest: jax.Array | None

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
            # Nothing computes while the whole gradient is under way, so all of it is exposed.
            exposed_seconds=spent.exchange_seconds,
            data_wait_seconds=spent.data_wait_seconds,
            pause_seconds=spent.pause_seconds,
            link_bytes=spent.link_bytes,
            state_sha256=state_sha256,
        )


def subtrees(phase: BatchPhase) -> list[list[Node]]:
    """The largest whole subtrees of the slot tree in each member's slots."""
    return [maximal_subtrees(phase.num_slots, mine.start, mine.stop) for mine in phase.slots]


def _sha256(lanes: jax.Array) -> bytes:
    return hashlib.sha256(np.asarray(lanes).tobytes()).digest()


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
    ) -> None:
        """`target_steps` are those the data lasts for, when they are fewer than the order's.
        `restored` is the state to start from, by the names of Program.state_buffers; without it,
        the state is initialised from the order's seed."""
        self._order = order
        self._program = program
        self._batches = batches
        self._exchange = exchange
        self._agreement = agreement
        self._subtrees = {phase.num_slots: subtrees(phase) for phase in order.phases}
        groups = program.groups
        self._payload = Payload([*groups.get("grads", ()), *groups.get("metrics", ())])
        self._num_grads = len(groups.get("grads", ()))
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
            seed = jax.device_put(np.uint32(order.seed), groups["seed"][0].sharding)
            self._params, self._optimizer = self._run("init", [seed])
        else:
            state = [restored[name] for name in program.state_buffers]
            num_params = len(groups["params"])
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

    def state_sha256(self) -> bytes:
        """Digest of the state; empty when the program has none. Waits for the devices."""
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
        """Stop preparing batches; the state goes with the object."""
        if self._batches is not None:
            self._batches.close()

    def step(self, step: int) -> StepInFlight | None:
        """Apply one step. None when the pod agreed not to; the state is then untouched.

        Raises ExchangeError in a pod of one host, and whatever the devices raise.
        """
        spent = Spent(pause_seconds=self._paused_seconds)
        self._paused_seconds = 0.0
        total: list[Group] = []
        if self._program.has_gradients:
            sums = self._own_sums(step, spent)
            holds_all = self._gather(step, sums, spent)
            if not self._agree(step, holds_all):
                return None
            root = (0, self._order.phase(step).num_slots)
            total = reduce_tree(root, lambda node: sums.pop(node, None), self._add)
        return self._apply(step, total, spent)

    def _own_sums(self, step: int, spent: Spent) -> Sums:
        """This pod's part of the slot tree, its largest whole subtrees."""
        batches: Sequence[tuple[np.ndarray, ...]] = ()
        if self._batches is not None:
            start = time.perf_counter()
            batches = self._batches.get(step)
            spent.data_wait_seconds = time.perf_counter() - start
        first = self._order.my_slots(step).start

        def slot(node: Node) -> list[Group] | None:
            if node[1] - node[0] > 1:
                return None
            batch = self._on_devices(batches[node[0] - first]) if batches else []
            return self._run("forward_backward", self._params, batch)

        mine = self._subtrees_at(step)[self._order.member_index]
        return {node: reduce_tree(node, slot, self._add) for node in mine}

    def _gather(self, step: int, sums: Sums, spent: Spent) -> bool:
        """Add the peers' subtrees to `sums`; False when aborted in a pod of several hosts."""
        if len(self._order.members) == 1:
            return True
        mine = [array for node in sums.values() for group in node for array in group]
        num_mine = len(sums)
        jax.block_until_ready(mine)
        start = time.perf_counter()
        outgoing = self._payload.views(mine, num_mine)
        incoming = {
            index: self._payload.num_bytes * len(nodes)
            for index, nodes in enumerate(self._subtrees_at(step))
            if index != self._order.member_index
        }
        try:
            received = self._exchange.swap(self._key(step), outgoing, incoming)
        except ExchangeAborted:
            if self._is_multi_host:
                return False
            raise
        finally:
            del outgoing
        for index, data in received.items():
            sums |= self._sums_of(self._subtrees_at(step)[index], data)
        spent.exchange_seconds = time.perf_counter() - start
        spent.link_bytes = self._payload.num_bytes * num_mine * len(incoming)
        return True

    def _subtrees_at(self, step: int) -> list[list[Node]]:
        """Whose parts of the slot tree are which, by member."""
        return self._subtrees[self._order.phase(step).num_slots]

    def _sums_of(self, nodes: list[Node], data: memoryview) -> Sums:
        size = self._payload.num_bytes
        sums: Sums = {}
        for position, node in enumerate(nodes):
            arrays = self._payload.arrays(data[position * size : (position + 1) * size])
            sums[node] = [arrays[: self._num_grads], arrays[self._num_grads :]]
        return sums

    def _agree(self, step: int, holds_all: bool) -> bool:
        """Whether the whole pod applies the step; a pod of one host need not ask."""
        if not self._is_multi_host:
            return holds_all
        agreement = self._agreement.agree(self._key(step), holds_all)
        self.is_leaving = agreement.leave or not agreement.apply
        return agreement.apply

    def _apply(self, step: int, total: list[Group], spent: Spent) -> StepInFlight:
        self._params, self._optimizer, record = self._run(
            "apply_update", self._params, self._optimizer, *total
        )
        digest = self._digest(step)
        if self._previous is not None:
            # One step of run-ahead hides dispatch; more would only hide how long steps take.
            self._previous.block_until_ready()
        self._previous = record[0]
        end = time.perf_counter()
        seconds, self._last_end = end - self._last_end, end
        return StepInFlight(step, time.time(), seconds, spent, record[0], digest)

    def _digest(self, step: int) -> jax.Array | None:
        order = self._order
        if not order.digest_every:
            return None
        if step % order.digest_every and step != self.target_steps:
            return None
        return self._run("digest", self._params, self._optimizer)[0][0]

    def _add(self, left: list[Group], right: list[Group]) -> list[Group]:
        return self._run("accumulate", *left, *right)

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

    def _key(self, step: int) -> StepKey:
        assignment = self._order.assignment
        return StepKey(assignment.job, assignment.generation, step)
