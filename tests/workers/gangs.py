"""Gangs whose members live in one process, joined by the loopback exchange."""

from __future__ import annotations

import concurrent.futures
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from controller.core.program import slot_ranges
from workers.checkpoint import layout
from workers.checkpoint.reader import restore, restore_member_state
from workers.checkpoint.saver import Saver
from workers.exchange.agreement import SoleAgreement
from workers.exchange.base import Membership
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.in_flight import StepInFlight
from workers.member_state import Restored
from workers.orders import (
    Assignment,
    BatchPhase,
    CheckpointWritten,
    ExchangeRule,
    JobOrder,
    Member,
    StepRecord,
)
from workers.program import Component, Program, load, read_bundle
from workers.training import Training, member_arrays

NUM_SLOTS = {1: 4, 4: 6}
"""Of the steps from one on."""
STEPS = 6
ASSIGNMENT = Assignment("job", 1)
FULL = ExchangeRule()
Named = dict[str, np.ndarray]


class Batches:
    """A pure function of (step, slot)."""

    def __init__(self, slots: Callable[[int], range]) -> None:
        self._slots = slots

    def get(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._slot(step, slot) for slot in self._slots(step)]

    def close(self) -> None: ...

    def _slot(self, step: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng([step, slot]).integers(0, 257, (4, 9), dtype=np.int32)
        return tokens[:, :-1], tokens[:, 1:]


class _TurnTaking:
    """Lets one member compute at a time: XLA's CPU collectives deadlock otherwise."""

    def __init__(self, component: Component, devices: threading.Lock) -> None:
        self._component = component
        self._devices = devices

    def __call__(self, *groups):
        with self._devices:
            return jax.block_until_ready(self._component(*groups))


def turn_taking(bundle: Any) -> Program:
    """A bundle's program, for several members on the same devices."""
    loaded = load(*read_bundle(bundle.data, bundle.digest))
    devices = threading.Lock()
    components: dict[str, Any] = {
        name: _TurnTaking(component, devices) for name, component in loaded.components.items()
    }
    return Program(loaded.manifest, components, loaded.groups)


def order_of(
    index: int,
    num_pods: int,
    exchange: ExchangeRule,
    directory: pathlib.Path = pathlib.Path(),
) -> JobOrder:
    members = tuple(Member(f"pod-{i}", "") for i in range(num_pods))
    phases = tuple(
        BatchPhase(first_step, slots, tuple(range(*cut) for cut in slot_ranges(slots, num_pods)))
        for first_step, slots in NUM_SLOTS.items()
    )
    assigned = (ASSIGNMENT, "sha256:0", members, index, phases, 0, {}, 1)
    return JobOrder(
        *assigned, target_steps=STEPS, exchange=exchange, checkpoint_directory=directory
    )


def member(
    program: Program,
    exchange: LoopbackExchange,
    index: int,
    num_pods: int,
    rule: ExchangeRule = FULL,
    state: Restored | None = None,
) -> Training:
    """One member of a gang, from its seed or from what is restored."""
    order = order_of(index, num_pods, rule)
    peers = [i for i in range(num_pods) if i != index]
    names = {i: f"pod-{i}" for i in peers}
    exchange.join(Membership(ASSIGNMENT.job, ASSIGNMENT.generation, index, names, names, 1 << 30))
    batches = Batches(order.my_slots)
    agreement = SoleAgreement()
    return Training(order, program, batches, exchange, agreement, state)


class LocalGang:
    """All members of a gang, for a `with` block; from its seed or from a checkpoint."""

    def __init__(
        self,
        program: Program,
        num_pods: int,
        rule: ExchangeRule,
        checkpoint: pathlib.Path | None = None,
    ) -> None:
        """Raises CheckpointError."""
        self.program, self.rule = program, rule
        self._link = LoopbackLink()
        self._exchanges = [LoopbackExchange(self._link) for _ in range(num_pods)]
        self.members = [
            member(
                program,
                exchange,
                index,
                num_pods,
                rule,
                restored(program, checkpoint, index, num_pods) if checkpoint else None,
            )
            for index, exchange in enumerate(self._exchanges)
        ]

    def __enter__(self) -> LocalGang:
        return self

    def __exit__(self, *_: object) -> None:
        # Where a test failed between two members' sends, one waits for what never comes.
        for exchange in self._exchanges:
            exchange.abort(ASSIGNMENT.job, ASSIGNMENT.generation, "the test is over")
        for training in self.members:
            training.close()

    def train(
        self,
        first: int,
        last: int,
        changes: Mapping[int, ExchangeRule] | None = None,
        late: int | None = None,
    ) -> list[list[StepRecord]]:
        """Every member's records of steps first..last, and how they exchange from the steps of
        `changes` on. The member `late` changes over only when a peer has sent in the new way."""

        def step(training: Training, number: int) -> StepInFlight | None:
            rule = (changes or {}).get(number)
            if rule is not None:
                if late is not None and training is self.members[late]:
                    self._await_peers(late, number)
                training.use(rule)
            return training.step(number)

        def train(training: Training) -> list[StepRecord]:
            try:
                steps = (step(training, number) for number in range(first, last + 1))
                return [step.settle() for step in steps if step is not None]
            except BaseException as error:
                for exchange in self._exchanges:
                    reason = f"a member failed: {error!r}"
                    exchange.abort(ASSIGNMENT.job, ASSIGNMENT.generation, reason)
                raise

        with concurrent.futures.ThreadPoolExecutor(len(self.members)) as pool:
            return list(pool.map(train, self.members))

    def _await_peers(self, index: int, step: int) -> None:
        """Until one of them has sent something of the step to this member."""
        link = self._link
        with link.changed:
            assert link.changed.wait_for(
                lambda: any((key.step, to) == (step, index) for key, _, to in link.parcels),
                timeout=60.0,
            )

    def member_states(self) -> list[Named]:
        """What every member has for itself."""
        return [arrays_of(training.member_state()) for training in self.members]

    def save(self, root: pathlib.Path, step: int) -> pathlib.Path:
        """The folder of a checkpoint of the state after `step`, which is the last applied one."""
        reports: list[CheckpointWritten] = []
        for index, training in enumerate(self.members):
            order = order_of(index, len(self.members), self.rule, root)
            saver = Saver(order, self.program, reports.append, training.member_state())
            saver.save(step, training)
            saver.close(wait=True)
        assert [report.error for report in reports] == [""] * len(self.members)
        (digest,) = {report.state_sha256 for report in reports}
        of = (root, ASSIGNMENT.job, step, ASSIGNMENT.generation)
        manifest = layout.publish(*of, len(self.members), digest.hex())
        assert manifest.num_bytes == sum(report.num_bytes for report in reports)
        return layout.step_folder(*of)


def restored(program: Program, checkpoint: pathlib.Path, index: int, num_pods: int) -> Restored:
    """The state that all members hold alike, and what this one takes for itself."""
    wanted = {name: buffer.struct for name, buffer in program.state_buffers.items()}
    manifest, state = restore(checkpoint, wanted)
    of = (member_arrays(program), index, num_pods)
    return Restored(state, restore_member_state(checkpoint, manifest, *of))


def arrays_of(named: Mapping[str, jax.Array]) -> Named:
    return {name: np.array(array, copy=True) for name, array in named.items()}


def bits(records: Sequence[StepRecord]) -> list[tuple[bytes, float]]:
    """(digest, loss) after every step."""
    return [(record.state_sha256, record.values[0]) for record in records]
