"""One generation of a job at one host: its state on the devices, and one step of it.

Gradients are summed over the fixed slot tree, segment by segment, by additions whose bits do not
depend on where they are made. What crosses the link and when is the synchronisation's. Where pods
exchange after every step, a step is a transaction: nothing of the state is donated before
apply_update, which starts only when every contribution is there and all hosts of the pod have
agreed; whatever fails earlier leaves the state of the step before intact. So neither the number of
pods nor what overlaps changes the bits there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import numpy as np

from protos import faults
from workers.checkpoint.snapshot import Copy, snapshot_of
from workers.every_step import EveryStep
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import GradientExchange
from workers.exchange.tree import SlotFold, maximal_subtrees
from workers.in_flight import Spent, StepInFlight, sha256_of
from workers.member_state import MemberArray, Restored, Takeover
from workers.orders import ExchangeRule, JobOrder
from workers.outer.synchronisation import OuterSynchronisation
from workers.program import Group, Program, Segment
from workers.reduction.base import Add, Gradients
from workers.reduction.residuals import WholeGradients, losses_in
from workers.slot_gradient import SlotGradient
from workers.synchronisation import Synchronisation


class BatchSource(Protocol):
    """Host arrays of a step's slots, one tuple in group order per slot of this pod."""

    def get(self, step: int) -> Sequence[tuple[np.ndarray, ...]]: ...

    def close(self) -> None: ...


def member_arrays(program: Program) -> dict[str, MemberArray]:
    """What a training may be given of a checkpoint as its member's own state, by name. What others
    have sent is summed, since it counts once; of what they trained, one is gone on with."""
    trained = {
        name: MemberArray(buffer.struct, Takeover.SUM if name.startswith("sent/") else Takeover.ONE)
        for name, buffer in program.own_buffers.items()
    }
    return trained | WholeGradients.of(program).member_arrays()


class Training:
    """State and step of one generation. Used by the executor's thread only."""

    def __init__(
        self,
        order: JobOrder,
        program: Program,
        batches: BatchSource | None,
        exchange: GradientExchange,
        agreement: PodAgreement,
        restored: Restored | None = None,
        target_steps: int | None = None,
    ) -> None:
        """`target_steps` are those the data lasts for, when they are fewer than the order's.
        `restored` is the state to start from, by the names of Program.state_buffers and
        Program.own_buffers; without it, the state is initialised from the order's seed."""
        self._order = order
        self._program = program
        self._batches = batches
        self._agreement = agreement
        self._gradient = SlotGradient(program, self._run)
        self._adds = [self._addition(segment) for segment in program.segments]
        self._is_multi_host = jax.process_count() > 1
        # Several executions with collectives in flight deadlock XLA's CPU rendezvous, so a host
        # that shares a mesh there waits for each; a lone device or an accelerator may run ahead.
        on_cpu = jax.local_devices()[0].platform == "cpu"
        self._waits_for_each = on_cpu and jax.device_count() > 1
        self._previous: jax.Array | None = None
        self._copies: dict[frozenset[str], Copy] = {}
        """By the names that are copied."""
        self.target_steps = order.target_steps if target_steps is None else target_steps
        self.is_leaving = False
        """The hosts of the pod have agreed to leave the job after the last step."""
        self._is_whole = True
        """Whether the state is that of a step, and not what a step left that broke off."""
        if restored is None:
            sharding = program.groups["seed"][0].sharding
            seed = jax.device_put(np.uint32(order.seed), sharding)
            self._params, self._optimizer = self._run("init", [seed])
        else:
            held = {**restored.shared, **restored.own}
            self._params, self._optimizer = (
                [held[f"{group}/{buffer.name}"] for buffer in program.groups[group]]
                for group in ("params", "optimizer")
            )
        self._synchronisation = self._synchronised_by(exchange, restored)
        jax.block_until_ready((self._params, self._optimizer))
        self._last_end = time.perf_counter()
        self._paused_seconds = 0.0
        self._spent = Spent()

    @property
    def waits_since(self) -> float | None:
        """Since when, monotonic seconds, the step under way waits for what others send; None while
        it computes. May be asked on any thread."""
        return self._spent.waits_since

    @property
    def state(self) -> list[jax.Array]:
        """Parameters and optimizer state after the last applied step."""
        return [*self._params, *self._optimizer]

    def named_state(self) -> dict[str, jax.Array]:
        """The state that all pods hold alike, by the names of Program.state_buffers."""
        shared = self._synchronisation.shared_state(self._params, self._optimizer)
        return dict(zip(self._program.state_buffers, shared, strict=True))

    def member_state(self) -> dict[str, jax.Array]:
        """What this member has for itself after the last applied step, by names of member_arrays:
        copies, which nothing that training does later changes or donates, and may be in the making.
        The same names at all members of a gang."""
        own = self._synchronisation.own_state(self._params, self._optimizer)
        names = frozenset(own)
        if names not in self._copies:
            buffers = self._program.own_buffers
            self._copies[names] = snapshot_of({name: buffers[name].struct for name in own})
        return {**self._copies[names](own), **self._synchronisation.losses()}

    def digest(self) -> jax.Array | None:
        """Lanes of a digest of the state that all pods hold alike; None when the program has none.
        Returns at once."""
        return self._synchronisation.digest(self._params, self._optimizer)

    def state_sha256(self) -> bytes:
        """The same as a digest; empty when the program has none. Waits for the devices."""
        lanes = self.digest()
        return b"" if lanes is None else sha256_of(lanes)

    def kept(self) -> Restored | None:
        """The state after the last applied step, for another training to go on with in place of
        this one; None when a step broke off after it had begun to replace the state. Waits for the
        devices and raises what they raise."""
        if not self._is_whole:
            return None
        state = Restored(self.named_state(), self.member_state())
        jax.block_until_ready((state.shared, state.own))
        return state

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

    def use(self, rule: ExchangeRule) -> None:
        """Exchange in this way from the next step on, as all members do. Raises ValueError where
        pods do not exchange after every step."""
        if not isinstance(self._synchronisation, EveryStep):
            raise ValueError(f"pods that synchronise every so often cannot change over to {rule}")
        self._synchronisation.use(rule)

    def close(self) -> None:
        """Stop preparing batches and end the exchange, whose generation must be over where peers
        may be waited for; the state goes with the object."""
        self._synchronisation.close()
        if self._batches is not None:
            self._batches.close()

    def step(self, step: int) -> StepInFlight | None:
        """Apply one step. None when the pod agreed not to; where pods exchange after every step the
        state is then untouched, else it is of no step and must not be used.

        Raises ExchangeError, after which the same holds, and whatever the devices raise.
        """
        spent = self._spent = Spent(pause_seconds=self._paused_seconds)
        self._paused_seconds = 0.0
        total: list[Gradients] | None = []
        if self._program.has_gradients:
            self._offer_own_sums(step, spent)
            total = self._synchronisation.gradients(step, spent)
            spent.waits_since = None
        if total is None:
            return None
        groups = [group for gradients in total for group in gradients]
        faults.at("apply")
        self._is_whole = False
        params, self._optimizer, record = self._run(
            "apply_update", self._params, self._optimizer, *groups
        )
        params = self._synchronisation.updated(step, params, spent)
        if params is None:
            return None
        if faults.at("state") is not None:
            params = [_with_a_bit_flipped(params[0]), *params[1:]]
        self._params = params
        self._is_whole = True
        return self._applied(step, record[0], spent)

    def _synchronised_by(
        self, exchange: GradientExchange, restored: Restored | None
    ) -> Synchronisation:
        shared = (self._order, self._program, exchange, self._run, self._adds, self._agree)
        outer = self._program.outer
        if outer is None:
            return EveryStep(*shared, losses_in(restored.own) if restored else {})
        return OuterSynchronisation(
            *shared,
            outer=outer,
            params=self._params,
            last_step=self.target_steps,
            restored=restored,
        )

    def _offer_own_sums(self, step: int, spent: Spent) -> None:
        """Compute this pod's slots and offer the sums of every segment as they become complete."""
        batches: Sequence[tuple[np.ndarray, ...]] = ()
        if self._batches is not None:
            start = time.perf_counter()
            batches = self._batches.get(step)
            spent.data_wait_seconds = time.perf_counter() - start
        mine = self._order.my_slots(step)
        nodes = maximal_subtrees(self._order.phase(step).num_slots, mine.start, mine.stop)
        folds = [SlotFold(nodes, add) for add in self._adds]
        for position in range(len(mine)):
            batch = self._on_devices(batches[position]) if batches else []
            for segment, gradients in self._gradient.of(self._params, batch):
                sums = folds[segment].add(gradients)
                if sums is not None:
                    self._synchronisation.offer(step, segment, sums)

    def _addition(self, segment: Segment) -> Add:
        return lambda left, right: self._run(segment.accumulate, *left, *right)

    def _agree(self, step: int, holds_all: bool) -> bool:
        """Whether the whole pod applies the step; a pod of one host need not ask."""
        if not self._is_multi_host:
            return holds_all
        agreement = self._agreement.agree(self._order.key(step, 0), holds_all)
        self.is_leaving = agreement.leave or not agreement.apply
        return agreement.apply

    def _applied(self, step: int, record: jax.Array, spent: Spent) -> StepInFlight:
        digest = self._digest(step)
        if self._previous is not None:
            # One step of run-ahead hides dispatch; more would only hide how long steps take.
            self._previous.block_until_ready()
        self._previous = record
        squares = self._synchronisation.loss_squares() if digest is not None else ()
        end = time.perf_counter()
        seconds, self._last_end = end - self._last_end, end
        return StepInFlight(step, time.time(), seconds, spent, record, digest, squares)

    def _digest(self, step: int) -> jax.Array | None:
        order = self._order
        if not order.digest_every:
            return None
        if step % order.digest_every and step != self.target_steps:
            return None
        return self.digest()

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


def _with_a_bit_flipped(array: jax.Array) -> jax.Array:
    """As a device whose memory or arithmetic is broken would leave it: in the last place of one
    element, on one device."""
    shards = [np.array(shard.data) for shard in array.addressable_shards]
    shards[0].reshape(-1).view(np.uint8)[0] ^= 1
    placed = [
        jax.device_put(data, shard.device)
        for data, shard in zip(shards, array.addressable_shards, strict=True)
    ]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, placed)
