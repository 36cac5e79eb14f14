"""What a host does when the controller's stream goes away under it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from protos import control_pb2 as pb
from tests.workers.fake_controller import FakeController, Stream, fake_controller
from workers import controller_client
from workers import host as host_module
from workers.exchange.agreement import SoleAgreement
from workers.exchange.conditions import LinkConditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.loopback import LoopbackExchange, LoopbackLink
from workers.executor import Executor
from workers.host import Host, HostIdentity
from workers.orders import Activity, Assignment, Held, Inventory, Phase


@pytest.fixture(autouse=True)
def redial_at_once(monkeypatch):
    monkeypatch.setattr(host_module, "REDIAL_SECONDS", (0.0,))


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    async with fake_controller() as controller:
        yield controller


async def assemble(order: pb.AssemblePod) -> Inventory:
    return Inventory("cpu", "cpu", 1, 0, {}, "unknown", {})


@contextlib.asynccontextmanager
async def running(
    controller: FakeController,
    num_hosts: int,
    emulator: LinkEmulator | None = None,
    others: Sequence[str] = (),
) -> AsyncIterator[Host]:
    """Host 1 of a pod, or the only one. `others` are addresses to dial before the controller's."""
    exchange = LoopbackExchange(LoopbackLink())
    identity = HostIdentity("pod-0", num_hosts - 1, num_hosts, "127.0.0.1:1", "", "")
    executor = Executor(exchange, SoleAgreement(), lambda report: None)
    host = Host(
        [*others, controller.address],
        identity,
        executor,
        exchange,
        assemble,
        pathlib.Path("nowhere"),
        emulator,
    )
    task = asyncio.create_task(host.run())
    try:
        yield host
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("lose", [Stream.end, Stream.break_off])
async def test_host_that_dials_again_says_with_whom_it_assembled(controller, lose):
    async with running(controller, num_hosts=2):
        stream = await controller.attached()
        assert not stream.hello.assembled_with
        stream.assemble(lead=stream)
        told = (await stream.hear("inventory")).inventory
        lose(stream)
        again = await controller.attached()
        assert again.hello.assembled_with == stream.hello.incarnation
        # It is not asked to assemble a second time, and tells what it has.
        assert (await again.hear("inventory")).inventory == told


async def test_host_says_what_it_holds_and_tells_of_it_when_asked(controller, monkeypatch):
    monkeypatch.setattr(Executor, "has_program", lambda self, digest: True)
    monkeypatch.setattr(Executor, "prepare", lambda self, order, bundle: None)
    job = Assignment("job-1", 3)
    async with running(controller, num_hosts=1) as dialled:
        stream = await controller.attached()
        stream.assemble(lead=stream)
        await stream.hear("inventory")
        prepared = pb.PrepareJob(
            job="job-1",
            generation=3,
            data_json="{}",
            members=[pb.GangMember(pod="pod-0", link_addresses=["h:1"])],
            exchange=pb.Exchange(dtype=pb.EXCHANGE_DTYPE_FLOAT32),
        )
        stream.order(pb.HostCommand(prepare_job=prepared))
        stream.order(
            pb.HostCommand(grant_window=pb.GrantWindow(job="job-1", generation=3, last_step=64))
        )
        # Answered in order: it has obeyed the two before.
        stream.order(pb.HostCommand(warm_program=pb.WarmProgram(bundle_digest="sha256:ab")))
        await stream.hear("program_warmed")
        stream.break_off()
        again = await controller.attached()
        assert again.hello.held == pb.HeldJob(job="job-1", generation=3, granted_step=64)
        dialled.report(Held(job, 7, b"d"))
        again.order(pb.HostCommand(tell_again=pb.TellAgain(job="job-1", generation=3)))
        assert (await again.hear("job_held")).job_held.applied_step == 7


async def test_stream_lost_by_a_host_of_several_before_assembly_is_dialled_again(controller):
    async with running(controller, num_hosts=2):
        first = await controller.attached()
        first.end()
        again = await controller.attached()
        assert again.hello.incarnation == first.hello.incarnation


@pytest.mark.parametrize("lose", [Stream.end, Stream.break_off])
async def test_stream_lost_by_the_only_host_of_its_pod_is_dialled_again(controller, lose):
    async with running(controller, num_hosts=1):
        first = await controller.attached()
        first.assemble(lead=first)
        await first.hear("inventory")
        lose(first)
        again = await controller.attached()
        again.assemble(lead=again)
        assert (await again.hear("inventory")).inventory.num_devices == 1


async def test_host_tells_its_link_when_it_dials_and_whenever_it_is_another(controller):
    emulator = LinkEmulator(LinkConditions(latency_seconds=0.005))
    async with running(controller, num_hosts=1, emulator=emulator):
        stream = await controller.attached()
        told = (await stream.hear("link_conditions")).link_conditions
        assert told == pb.LinkConditions(latency_seconds=0.005)
        for wanted in (
            LinkConditions(25e6, 0.005, 0.002, 30.0, 0.5, 0.25, is_partitioned=True),
            LinkConditions(),
        ):
            order = pb.SetLinkConditions(
                conditions=controller_client.encode_conditions(wanted).link_conditions
            )
            stream.order(pb.HostCommand(set_link_conditions=order))
            told = (await stream.hear("link_conditions")).link_conditions
            assert told == order.conditions
            assert emulator.conditions == wanted


async def test_job_is_held_or_stopped_as_it_is_said(controller, monkeypatch):
    told: list[tuple[str, Assignment, str]] = []
    for name in ("hold", "stop"):
        monkeypatch.setattr(
            Executor, name, lambda self, job, why, name=name: told.append((name, job, why))
        )
    async with running(controller, num_hosts=1):
        stream = await controller.attached()
        said = {"job": "job-1", "generation": 3}
        stream.order(pb.HostCommand(hold_job=pb.HoldJob(**said, reason="a pod was lost")))
        stream.order(pb.HostCommand(stop_job=pb.StopJob(**said, reason="cancelled")))
        stream.assemble(lead=stream)
        await stream.hear("inventory")
    job = Assignment("job-1", 3)
    assert told[:2] == [("hold", job, "a pod was lost"), ("stop", job, "cancelled")]


async def test_heartbeat_tells_what_is_done_and_for_how_long(controller, monkeypatch):
    job, now = Assignment("job-1", 3), time.monotonic()
    doing = Activity(job, Phase.EXCHANGE, 12, now - 100.0)
    monkeypatch.setattr(Executor, "activity", lambda self: doing)
    async with running(controller, num_hosts=1):
        stream = await controller.attached()
        told = (await stream.hear("heartbeat")).heartbeat.activity
    assert (told.job, told.generation, told.step) == ("job-1", 3, 12)
    assert told.phase == pb.PHASE_EXCHANGE
    assert 100.0 <= told.seconds <= 100.0 + time.monotonic() - now


async def test_stacks_are_told_by_thread_and_name_where_each_is(controller):
    def a_place_to_find() -> None:
        reached.set()
        leave.wait()

    reached, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=a_place_to_find, name="executor")
    thread.start()
    reached.wait()
    try:
        async with running(controller, num_hosts=1):
            stream = await controller.attached()
            stream.order(pb.HostCommand(dump_stacks=pb.DumpStacks(job="job-1", generation=3)))
            told = (await stream.hear("stacks")).stacks
    finally:
        leave.set()
        thread.join()
    assert (told.job, told.generation) == ("job-1", 3)
    first, _, others = told.text.partition("\n\n")
    assert first.startswith("executor:\n") and "a_place_to_find" in first
    assert "MainThread:\n" in others


async def test_program_that_is_here_is_warm_and_not_fetched_again(controller, monkeypatch):
    monkeypatch.setattr(Executor, "has_program", lambda self, digest: digest == "sha256:ab")
    async with running(controller, num_hosts=1):
        stream = await controller.attached()
        stream.order(pb.HostCommand(warm_program=pb.WarmProgram(bundle_digest="sha256:ab")))
        assert (await stream.hear("program_warmed")).program_warmed.bundle_digest == "sha256:ab"


async def test_host_dials_one_address_after_the_other_until_a_controller_answers(controller):
    with socket.socket() as standby:
        # Bound and not listening, as the port of a controller that is not there.
        standby.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{standby.getsockname()[1]}"
        async with running(controller, num_hosts=1, others=[address]):
            first = await controller.attached()
            first.assemble(lead=first)
            await first.hear("inventory")
            first.break_off()
            again = await controller.attached()
            assert again.hello.incarnation == first.hello.incarnation


async def test_host_follows_the_controller_to_another_address(controller):
    async with (
        fake_controller() as other,
        running(other, num_hosts=1, others=[controller.address]),
    ):
        first = await controller.attached()
        first.assemble(lead=first)
        await first.hear("inventory")
        await controller.stop()
        again = await other.attached()
        assert again.hello.incarnation == first.hello.incarnation


async def test_address_where_nobody_speaks_holds_up_the_others_for_seconds_only(controller):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        async with running(controller, num_hosts=1, others=[address]):
            async with asyncio.timeout(10):
                await controller.attached()
