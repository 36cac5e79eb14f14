from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import pathlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.config import Address
from controller.core import commands, events
from controller.core.cluster import Assignment
from controller.runtime import codec, host_service
from controller.runtime.host_service import (
    BUNDLE_CHUNK_BYTES,
    ControlService,
    HostServer,
    ProgramService,
)
from protos import control_pb2 as pb
from protos import control_pb2_grpc, program_pb2, program_pb2_grpc
from tests.controller.core.world import ref

TOKEN = "secret"
HOST = ref("pod-0")


@dataclasses.dataclass
class Served:
    """A server on a real port; what hosts report is in `events`, oldest first."""

    control: ControlService
    server: HostServer
    address: Address
    bundles: pathlib.Path
    channel: grpc.aio.Channel
    events: asyncio.Queue[events.Event]

    async def next(self) -> events.Event:
        return await asyncio.wait_for(self.events.get(), 5)

    def attach(self, *messages: pb.HostEvent) -> Any:
        """A stream of these messages that stays open; the caller may write more."""

        async def requests() -> AsyncIterator[pb.HostEvent]:
            for message in messages:
                yield message
            await asyncio.Event().wait()

        return control_pb2_grpc.ControlServiceStub(self.channel).Attach(requests())


def hello(**fields: Any) -> pb.HostEvent:
    return pb.HostEvent(
        hello=pb.HostHello(
            **{
                "protocol_version": codec.PROTOCOL_VERSION,
                "pod": "pod-0",
                "num_hosts": 1,
                "incarnation": "a",
                "link_address": "h:1",
                "pid": 42,
                "join_token": TOKEN,
                **fields,
            }
        )
    )


@pytest.fixture
async def served(tmp_path: pathlib.Path) -> AsyncIterator[Served]:
    posted: asyncio.Queue[events.Event] = asyncio.Queue()
    control = ControlService(posted.put_nowait, join_token=TOKEN, heartbeat_interval_seconds=1.5)
    server = HostServer(control, ProgramService(tmp_path, TOKEN))
    address = await server.start(Address("127.0.0.1", 0))
    async with grpc.aio.insecure_channel(str(address)) as channel:
        yield Served(control, server, address, tmp_path, channel, posted)
    await server.stop(0.0)


async def test_host_that_says_hello_is_attached_and_hears_its_orders(served: Served) -> None:
    call = served.attach(hello())
    assert await served.next() == events.HostAttached(HOST, 1, "h:1", "", 42)
    served.control.send(commands.AssembleHost(HOST, "", "h:1", "a"))
    served.control.send(commands.GrantWindow(HOST, Assignment("job-1", 1), 64))
    first, second = await call.read(), await call.read()
    assert first.assemble_pod.heartbeat_interval_seconds == 1.5
    assert second.grant_window.last_step == 64
    call.cancel()
    assert await served.next() == events.HostDetached(HOST, "host 0 of pod-0 closed its connection")


async def test_reports_become_events_in_their_order(served: Served) -> None:
    released = pb.HostEvent(job_released=pb.JobReleased(job="job-1", generation=1, applied_step=3))
    call = served.attach(hello(), pb.HostEvent(heartbeat=pb.Heartbeat()), released)
    await served.next()
    assert await served.next() == events.HostHeard(HOST, {})
    assert await served.next() == events.JobReleased(HOST, Assignment("job-1", 1), 3)
    call.cancel()


async def test_host_that_closes_its_side_is_detached_and_its_stream_ends(served: Served) -> None:
    async def requests() -> AsyncIterator[pb.HostEvent]:
        yield hello()

    call = control_pb2_grpc.ControlServiceStub(served.channel).Attach(requests())
    assert await call.read() is grpc.aio.EOF
    assert isinstance(await served.next(), events.HostAttached)
    assert isinstance(await served.next(), events.HostDetached)


async def test_host_that_is_dismissed_hears_why_and_its_stream_ends(served: Served) -> None:
    call = served.attach(hello())
    await served.next()
    served.control.send(commands.DismissHost(HOST, "you were silent"))
    served.control.send(commands.GrantWindow(HOST, Assignment("job-1", 1), 1))
    assert (await call.read()).dismiss.reason == "you were silent"
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert isinstance(await served.next(), events.HostDetached)


async def test_order_to_a_host_that_has_gone_is_dropped(served: Served) -> None:
    served.control.send(commands.DismissHost(HOST, "nobody listens"))
    call = served.attach(hello())
    await served.next()
    call.cancel()
    await served.next()
    served.control.send(commands.DismissHost(HOST, "nobody listens"))
    assert served.events.empty()


async def test_host_that_dials_again_lives_on_when_its_old_stream_ends(served: Served) -> None:
    """A connection that broke half-way ends at the server long after the host has redialled."""
    old = served.attach(hello())
    assert isinstance(await served.next(), events.HostAttached)
    new = served.attach(hello())
    assert isinstance(await served.next(), events.HostAttached)
    old.cancel()
    served.control.send(commands.StopHost(HOST, Assignment("job-1", 1), "why"))
    assert (await new.read()).stop_job.reason == "why"
    new.cancel()
    assert isinstance(await served.next(), events.HostDetached)
    assert served.events.empty()


@pytest.mark.parametrize(
    ("first", "code", "says"),
    [
        (pb.HostEvent(heartbeat=pb.Heartbeat()), "INVALID_ARGUMENT", "must be hello"),
        (pb.HostEvent(), "INVALID_ARGUMENT", "must be hello"),
        (hello(join_token="wrong"), "UNAUTHENTICATED", "join token is wrong"),
        (hello(join_token=""), "UNAUTHENTICATED", "join token is wrong"),
        (hello(protocol_version=9), "FAILED_PRECONDITION", "install the same landbridge"),
        (hello(host_index=2, num_hosts=2), "INVALID_ARGUMENT", "not below the number of hosts 2"),
        (hello(num_hosts=0), "INVALID_ARGUMENT", "not below the number of hosts 0"),
    ],
)
async def test_stranger_is_turned_away_with_the_reason(
    served: Served, first: pb.HostEvent, code: str, says: str
) -> None:
    call = served.attach(first)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode[code]
    assert says in str(refused.value.details())
    assert served.events.empty()


async def test_stream_without_a_message_is_turned_away(served: Served) -> None:
    async def requests() -> AsyncIterator[pb.HostEvent]:
        return
        yield

    call = control_pb2_grpc.ControlServiceStub(served.channel).Attach(requests())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_stream_that_stays_silent_is_turned_away_after_the_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host_service.HELLO_DEADLINE_SECONDS == 10.0
    monkeypatch.setattr(host_service, "HELLO_DEADLINE_SECONDS", 0.05)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(served.attach().read(), 5)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no hello came within 0.05 s" in str(refused.value.details())
    assert served.events.empty()


async def test_host_that_said_hello_may_be_silent_beyond_the_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_service, "HELLO_DEADLINE_SECONDS", 0.05)
    call = served.attach(hello())
    assert isinstance(await served.next(), events.HostAttached)
    with pytest.raises(grpc.aio.AioRpcError):
        await asyncio.wait_for(served.attach().read(), 5)
    served.control.send(commands.GrantWindow(HOST, Assignment("job-1", 1), 1))
    assert (await call.read()).grant_window.last_step == 1
    call.cancel()


async def test_message_that_cannot_be_read_ends_the_host(served: Served) -> None:
    call = served.attach(hello(), hello())
    await served.next()
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert isinstance(await served.next(), events.HostDetached)


async def _fetch(served: Served, digest: str, token: str | None = TOKEN) -> bytes:
    stub = program_pb2_grpc.ProgramServiceStub(served.channel)
    metadata = (("join-token", token),) if token is not None else ()
    call = stub.FetchBundle(program_pb2.FetchBundleRequest(digest=digest), metadata=metadata)
    parts = [part async for part in call]
    assert {part.total_bytes for part in parts} == {sum(len(part.data) for part in parts)}
    return b"".join(part.data for part in parts)


@pytest.mark.parametrize("size", [1, BUNDLE_CHUNK_BYTES, 2 * BUNDLE_CHUNK_BYTES + 7])
async def test_bundle_is_fetched_by_its_digest_in_chunks(served: Served, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    digest = hashlib.sha256(content).hexdigest()
    (served.bundles / f"{digest}.bundle").write_bytes(content)
    assert await _fetch(served, f"sha256:{digest}") == content


@pytest.mark.parametrize(
    ("digest", "token", "code"),
    [
        ("sha256:ab", TOKEN, "NOT_FOUND"),
        ("sha256:", TOKEN, "NOT_FOUND"),
        ("sha256:../secret", TOKEN, "NOT_FOUND"),
        ("sha256:ab", "wrong", "UNAUTHENTICATED"),
        ("sha256:ab", None, "UNAUTHENTICATED"),
    ],
)
async def test_bundle_is_kept_from_those_who_should_not_have_it(
    served: Served, digest: str, token: str | None, code: str
) -> None:
    (served.bundles.parent / "secret.bundle").write_bytes(b"secret")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _fetch(served, digest, token)
    assert refused.value.code() is grpc.StatusCode[code]


async def test_health_is_served(served: Served) -> None:
    health = health_pb2_grpc.HealthStub(served.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def _occupied() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def test_address_in_use_is_an_error_that_names_it(served: Served) -> None:
    control = ControlService(lambda _: None, join_token="", heartbeat_interval_seconds=1.0)
    second = HostServer(control, ProgramService(served.bundles, ""))
    with contextlib.closing(_occupied()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await second.start(Address("127.0.0.1", port))
    await second.stop(0.0)
