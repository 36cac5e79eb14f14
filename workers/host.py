"""The control side of a host: dials the controller, obeys, reports. Never touches a device.

The stream is dialled again with back-off when it breaks, at one address after the other where there
are several: a controller that stands by does not listen. A job goes on meanwhile, as far as its
steps are granted, and what is to be told of it is kept; the controller that answers says whether it
wants to hear it, or has it stopped. The process ends when it is dismissed or told to stop, and when
no controller answers for long. jax.distributed lets no process into a second pod, so a host says
with whom it formed its pod; one whose pod cannot form again is dismissed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
import os
import pathlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc

from protos import control_pb2 as pb
from protos import control_pb2_grpc, faults, program_pb2, program_pb2_grpc
from workers import controller_client as codec
from workers import stacks
from workers.checkpoint import layout
from workers.exchange.base import GradientExchange
from workers.exchange.emulator import LinkEmulator
from workers.executor import Executor
from workers.ledger import Ledger
from workers.orders import (
    Applied,
    Assignment,
    CheckpointPublished,
    CheckpointWritten,
    Evaluated,
    Faulted,
    JobOrder,
    Phase,
    Released,
    Report,
    Stacks,
    Warmed,
)

logger = logging.getLogger(__name__)

# The controller's server allows pings every 10 s or more rarely (controller.runtime.host_service).
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    # How long a connection may take to be made. Left alone, gRPC waits 20 s for a machine that is
    # gone, which is all the time that a controller gives hosts to come back.
    ("grpc.min_reconnect_backoff_ms", 3_000),
)

_FINAL_CODES = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)
"""The controller's word that dialling again will not help; everything else may be the network."""

REDIAL_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
REDIAL_LIMIT_SECONDS = 600.0
"""A host that finds no controller for ten minutes is an orphan and ends."""


class _End(enum.Enum):
    """How it ended with a controller that was dialled."""

    NO_ANSWER = enum.auto()
    LOST = enum.auto()
    """It had answered."""
    DISMISSED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class HostIdentity:
    """What a host says of itself when it dials."""

    pod: str
    index: int
    num_hosts: int
    link_address: str
    coordinator_address: str
    join_token: str = dataclasses.field(repr=False)
    incarnation: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))


class Host:
    """One host process, from the controller's point of view."""

    def __init__(
        self,
        controllers: Sequence[str],
        identity: HostIdentity,
        executor: Executor,
        exchange: GradientExchange,
        assemble: Callable[[pb.AssemblePod], Awaitable[Report]],
        checkpoints: pathlib.Path,
        emulator: LinkEmulator | None = None,
    ) -> None:
        """`controllers` are addresses, HOST:PORT. `assemble` initialises the accelerators once and
        tells what there is. `checkpoints` is where they lie unless a job says. `emulator` is the
        one that the exchange asks."""
        self._controllers = controllers
        self._identity = identity
        self._executor = executor
        self._exchange = exchange
        self._assemble = assemble
        self._checkpoints = checkpoints
        self._emulator = emulator
        self._outbox: asyncio.Queue[pb.HostEvent] = asyncio.Queue()
        self._heartbeat_seconds = 1.0
        self._fetches: dict[Assignment, asyncio.Task[None]] = {}
        self._assembly: asyncio.Task[None] | None = None
        self._assembled_with = ""
        self._inventory: Report | None = None
        """Once the pod has assembled."""
        self._leaves_at: float | None = None
        """When this process ends whatever the controller says, monotonic seconds."""
        self._ledger = Ledger()
        self._errands: set[asyncio.Task[None]] = set()
        # One after the other, in the order they were asked for: publishing deletes what is before.
        self._storage = asyncio.Lock()

    def report(self, report: Report) -> None:
        """Send a report up; on the event loop's thread."""
        if self._identity.index == 0 or not _is_for_lead_only(report):
            for told in self._ledger.tell(report):
                self._outbox.put_nowait(codec.encode_report(told))

    def leave(self, seconds: float) -> None:
        """Tell the controller that this process must end within so many seconds; it dismisses the
        host once the job goes on without it. On the event loop's thread."""
        self._leaves_at = time.monotonic() + seconds
        self._outbox.put_nowait(codec.encode_leaving(seconds))

    async def run(self) -> None:
        """Serve until dismissed, or until no controller was found for REDIAL_LIMIT_SECONDS.

        Raises grpc.aio.AioRpcError when the controller refuses this host for good.
        """
        clock = asyncio.get_running_loop().time
        attempt, lost_at = 0, clock()
        while clock() - lost_at < REDIAL_LIMIT_SECONDS:
            for address in self._controllers:
                end = await self._follow(address)
                if end is _End.DISMISSED:
                    return
                if end is _End.LOST:
                    attempt, lost_at = 0, clock()
                    break
            if self._leaves_at is not None:
                logger.warning("leaving, and no controller is there to hand over to")
                return
            delay = REDIAL_SECONDS[min(attempt, len(REDIAL_SECONDS) - 1)]
            attempt += 1
            # Jitter keeps the hosts of a fleet from dialling a restarted controller all at once.
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
        logger.error("no controller at %s; giving up", " or ".join(self._controllers))

    async def _follow(self, address: str) -> _End:
        """Dial a controller and obey it as long as it is there."""
        end = _End.NO_ANSWER
        try:
            async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
                async for command in self._attach(channel):
                    end = _End.LOST
                    if command.HasField("dismiss"):
                        logger.warning("dismissed: %s", command.dismiss.reason)
                        return _End.DISMISSED
                    await self._obey(command, channel)
        except grpc.aio.AioRpcError as error:
            if error.code() in _FINAL_CODES:
                raise
            logger.warning("the controller at %s is out of reach: %s", address, error.details())
        return end

    async def _attach(self, channel: grpc.aio.Channel) -> AsyncIterator[pb.HostCommand]:
        self._outbox = asyncio.Queue()
        self._ledger.fall_silent()
        stub = control_pb2_grpc.ControlServiceStub(channel)
        call = stub.Attach(self._events(), wait_for_ready=False)
        beat = asyncio.create_task(self._beat())
        try:
            async for command in call:
                yield command
        finally:
            beat.cancel()
            call.cancel()

    async def _events(self) -> AsyncIterator[pb.HostEvent]:
        outbox = self._outbox
        yield pb.HostEvent(hello=self._hello())
        if self._inventory is not None:
            yield codec.encode_report(self._inventory)
        if self._emulator is not None:
            yield codec.encode_conditions(self._emulator.conditions)
        if self._leaves_at is not None:
            yield codec.encode_leaving(max(0.0, self._leaves_at - time.monotonic()))
        while True:
            yield await outbox.get()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            faults.at("heartbeat")
            activity = self._executor.activity()
            beat = codec.encode_heartbeat(self._exchange.traffic(), activity, time.monotonic())
            self._outbox.put_nowait(beat)

    async def _obey(self, command: pb.HostCommand, channel: grpc.aio.Channel) -> None:
        match command.WhichOneof("command"):
            case "assemble_pod":
                self._heartbeat_seconds = command.assemble_pod.heartbeat_interval_seconds
                self._assembled_with = command.assemble_pod.lead_incarnation
                self._assembly = asyncio.create_task(
                    self._assemble_and_report(command.assemble_pod)
                )
            case "prepare_job":
                order = codec.decode_order(
                    command.prepare_job, self._identity.index, self._checkpoints
                )
                self._ledger.begin(order.assignment)
                self._prepare(order, channel)
            case "tell_again":
                again = command.tell_again
                for told in self._ledger.again(codec.assignment_of(again), again.after_step):
                    self._outbox.put_nowait(codec.encode_report(told))
            case "warm_program":
                self._spawn(self._warm(command.warm_program.bundle_digest, channel))
            case "grant_window":
                grant = command.grant_window
                self._ledger.granted(codec.assignment_of(grant), grant.last_step)
                self._executor.grant(codec.assignment_of(grant), grant.last_step)
            case "change_exchange":
                change = command.change_exchange
                rule = codec.exchange_rule(change.exchange)
                self._executor.change_exchange(codec.assignment_of(change), change.first_step, rule)
            case "save_checkpoint":
                save = command.save_checkpoint
                self._executor.save_after(codec.assignment_of(save), save.step)
            case "publish_checkpoint":
                self._spawn(self._publish(command.publish_checkpoint))
            case "remove_checkpoint":
                self._spawn(self._remove(command.remove_checkpoint))
            case "hold_job":
                hold = command.hold_job
                self._leave(codec.assignment_of(hold), hold.reason, self._executor.hold)
            case "stop_job":
                stop = command.stop_job
                self._leave(codec.assignment_of(stop), stop.reason, self._executor.stop)
            case "dump_stacks":
                self._tell_stacks(codec.assignment_of(command.dump_stacks))
            case "set_link_conditions":
                self._set_conditions(command.set_link_conditions)

    def _tell_stacks(self, assignment: Assignment) -> None:
        text = stacks.of_all_threads()
        logger.warning("%s does not get on; all threads of this host:\n%s", assignment.job, text)
        self.report(Stacks(assignment, text))

    def _set_conditions(self, order: pb.SetLinkConditions) -> None:
        """The controller asks only hosts that have told of their emulated link."""
        assert self._emulator is not None
        self._emulator.change(codec.decode_conditions(order), time.monotonic())
        self._outbox.put_nowait(codec.encode_conditions(self._emulator.conditions))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _warm(self, bundle_digest: str, channel: grpc.aio.Channel) -> None:
        if self._executor.has_program(bundle_digest):
            self.report(Warmed(bundle_digest))
            return
        try:
            self._executor.warm(bundle_digest, await self._fetch(bundle_digest, channel))
        except grpc.aio.AioRpcError as error:
            logger.warning("%s is not compiled ahead: %s", bundle_digest, error.details())

    async def _publish(self, order: pb.PublishCheckpoint) -> None:
        error = ""
        try:
            async with self._storage:
                await asyncio.to_thread(
                    layout.publish,
                    codec.directory_of(order.directory, self._checkpoints),
                    order.job,
                    order.step,
                    order.generation,
                    order.num_members,
                    order.state_sha256.hex(),
                    order.data_position,
                    codec.ranges_of(order.skipped),
                )
        except Exception as failure:  # whatever it is, the controller waits for the answer
            logger.exception("step %d of %s is not published", order.step, order.job)
            error = str(failure) or type(failure).__name__
        assignment = Assignment(order.job, order.generation)
        self.report(CheckpointPublished(assignment, order.step, error))

    async def _remove(self, order: pb.RemoveCheckpoint) -> None:
        root = codec.directory_of(order.directory, self._checkpoints)
        folder = layout.step_folder(root, order.job, order.step, order.generation)
        try:
            async with self._storage:
                await asyncio.to_thread(layout.remove, folder)
        except OSError:
            logger.exception("%s cannot be deleted and takes up room", folder)

    def _leave(
        self, assignment: Assignment, reason: str, leave: Callable[[Assignment, str], None]
    ) -> None:
        """A job whose bundle is still being fetched has not reached the executor, and no state of
        it is here: where there is, so is the program."""
        fetch = self._fetches.get(assignment)
        if fetch is not None and fetch.cancel():
            self.report(Released(assignment, 0))
        else:
            leave(assignment, reason)

    async def _assemble_and_report(self, order: pb.AssemblePod) -> None:
        try:
            inventory = await self._assemble(order)
        except Exception:
            logger.exception("the accelerators cannot be initialised")
            os._exit(1)
        self._inventory = inventory
        self.report(inventory)

    def _prepare(self, order: JobOrder, channel: grpc.aio.Channel) -> None:
        if self._executor.has_program(order.bundle_digest):
            self._executor.prepare(order, b"")
            return
        fetch = asyncio.create_task(self._fetch_and_prepare(order, channel))
        self._fetches[order.assignment] = fetch
        fetch.add_done_callback(lambda _: self._fetches.pop(order.assignment, None))

    async def _fetch_and_prepare(self, order: JobOrder, channel: grpc.aio.Channel) -> None:
        try:
            bundle = await self._fetch(order.bundle_digest, channel)
            self._executor.prepare(order, bundle)
        except Exception as error:
            # Whatever it is, a job that is waited for must hear of it.
            logger.exception("%s cannot be prepared", order.assignment.job)
            detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            message = f"bundle {order.bundle_digest} cannot be fetched: {detail}"
            self.report(Faulted(order.assignment, Phase.FETCH, 0, message))
            self.report(Released(order.assignment, 0))

    async def _fetch(self, digest: str, channel: grpc.aio.Channel) -> bytes:
        stub = program_pb2_grpc.ProgramServiceStub(channel)
        call = stub.FetchBundle(
            program_pb2.FetchBundleRequest(digest=digest),
            metadata=(("join-token", self._identity.join_token),),
            timeout=600,
        )
        return b"".join([part.data async for part in call])

    def _hello(self) -> pb.HostHello:
        identity = self._identity
        return pb.HostHello(
            protocol_version=codec.PROTOCOL_VERSION,
            pod=identity.pod,
            host_index=identity.index,
            num_hosts=identity.num_hosts,
            incarnation=identity.incarnation,
            link_address=identity.link_address,
            coordinator_address=identity.coordinator_address,
            pid=os.getpid(),
            join_token=identity.join_token,
            assembled_with=self._assembled_with if self._inventory is not None else "",
            held=codec.encode_held(self._ledger.held, self._ledger.granted_step),
        )


def _is_for_lead_only(report: Report) -> bool:
    """All hosts of a pod see the same steps; one of them tells."""
    return isinstance(report, Applied | CheckpointWritten | Evaluated)
