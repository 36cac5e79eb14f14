"""The gRPC side of the controller: hosts attach here and fetch bundles here.

A stream is a host's life: its first message names it, its end ends it. Messages become events for
the loop, orders become messages; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import pathlib
from collections.abc import AsyncIterator, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from controller.config import Address
from controller.core import commands, events
from controller.core.cluster import HostRef
from controller.runtime import codec
from protos import control_pb2, control_pb2_grpc, program_pb2, program_pb2_grpc

logger = logging.getLogger(__name__)

BUNDLE_CHUNK_BYTES = 1 << 20

HELLO_DEADLINE_SECONDS = 10.0
"""For the first message of a stream. A host sends it as soon as the stream is open, so that only
round trips of the slowest network have to fit; whoever is silent longer is no host."""

# A server that allows pings less often than its clients send them closes their connections
# (too_many_pings), so both numbers live side by side: hosts ping every 20 s.
SERVER_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.max_receive_message_length", 16 << 20),
    # Else a second server may listen on a port that is taken, and gets some of its hosts.
    ("grpc.so_reuseport", 0),
)

HostCommand = (
    commands.AssembleHost
    | commands.TellAgain
    | commands.WarmHost
    | commands.PrepareHost
    | commands.GrantWindow
    | commands.ChangeExchange
    | commands.SaveCheckpoint
    | commands.PublishCheckpoint
    | commands.RemoveCheckpoint
    | commands.HoldHost
    | commands.StopHost
    | commands.DumpStacks
    | commands.SetLinkConditions
    | commands.DismissHost
)


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Streams of attached hosts."""

    def __init__(
        self,
        post: Callable[[events.Event], None],
        *,
        join_token: str,
        heartbeat_interval_seconds: float,
    ) -> None:
        self._post = post
        self._join_token = join_token
        self._heartbeat_interval_seconds = heartbeat_interval_seconds
        self._outboxes: dict[HostRef, asyncio.Queue[control_pb2.HostCommand]] = {}

    def send(self, command: HostCommand) -> None:
        """Put an order on its host's stream. A host that has gone gets nothing; its end is an
        event."""
        outbox = self._outboxes.get(command.host)
        if outbox is not None:
            outbox.put_nowait(codec.encode_command(command, self._heartbeat_interval_seconds))

    async def Attach(
        self,
        request_iterator: AsyncIterator[control_pb2.HostEvent],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[control_pb2.HostCommand]:
        hello = await self._greet(request_iterator, context)
        host = codec.host_of(hello)
        outbox: asyncio.Queue[control_pb2.HostCommand] = asyncio.Queue()
        self._outboxes[host] = outbox
        self._post(codec.decode_hello(hello))
        reader = asyncio.create_task(self._read(host, request_iterator))
        try:
            while True:
                command = await _next_command(outbox, reader)
                if command is None:
                    break
                yield command
                if command.HasField("dismiss"):
                    break
        finally:
            reader.cancel()
            # A host that dialled again lives on in its new stream.
            if self._outboxes.get(host) is outbox:
                del self._outboxes[host]
                self._post(events.HostDetached(host, f"{host} closed its connection"))

    async def _greet(
        self,
        requests: AsyncIterator[control_pb2.HostEvent],
        context: grpc.aio.ServicerContext,
    ) -> control_pb2.HostHello:
        try:
            async with asyncio.timeout(HELLO_DEADLINE_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no hello came within {HELLO_DEADLINE_SECONDS:g} s; a host must send it as the "
                "first message, as soon as its stream is open",
            )
            raise AssertionError("abort raises") from None
        if first is None or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be hello")
            raise AssertionError("abort raises")
        hello = first.hello
        if not hmac.compare_digest(hello.join_token.encode(), self._join_token.encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the join token is wrong")
        if hello.protocol_version != codec.PROTOCOL_VERSION:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the host speaks protocol {hello.protocol_version}, this controller "
                f"{codec.PROTOCOL_VERSION}; install the same landbridge on both",
            )
        if hello.host_index >= hello.num_hosts:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"host index {hello.host_index} is not below the number of hosts {hello.num_hosts}",
            )
        return hello

    async def _read(self, host: HostRef, requests: AsyncIterator[control_pb2.HostEvent]) -> None:
        async for message in requests:
            self._post(codec.decode_event(host, message))


async def _next_command(
    outbox: asyncio.Queue[control_pb2.HostCommand], reader: asyncio.Task[None]
) -> control_pb2.HostCommand | None:
    """The next order, or None once the host has closed its side."""
    if not outbox.empty():
        return outbox.get_nowait()
    getter = asyncio.create_task(outbox.get())
    try:
        await asyncio.wait({getter, reader}, return_when=asyncio.FIRST_COMPLETED)
        if getter.done():
            return getter.result()
        reader.result()
        return None
    finally:
        getter.cancel()


class ProgramService(program_pb2_grpc.ProgramServiceServicer):
    """Bundles by digest, from the directory where the lowerer leaves them."""

    def __init__(self, bundles: pathlib.Path, join_token: str) -> None:
        self._bundles = bundles
        self._join_token = join_token

    async def FetchBundle(
        self,
        request: program_pb2.FetchBundleRequest,
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[program_pb2.FetchBundleResponse]:
        shown = dict(context.invocation_metadata() or ()).get("join-token", "")
        if not hmac.compare_digest(str(shown).encode(), self._join_token.encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the join token is wrong")
        name = request.digest.removeprefix("sha256:")
        path = self._bundles / f"{name}.bundle"
        if not name.isalnum() or not await asyncio.to_thread(path.is_file):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no bundle has digest {request.digest}")
        data = await asyncio.to_thread(path.read_bytes)
        for offset in range(0, len(data), BUNDLE_CHUNK_BYTES):
            chunk = data[offset : offset + BUNDLE_CHUNK_BYTES]
            yield program_pb2.FetchBundleResponse(data=chunk, total_bytes=len(data))


class HostServer:
    """The gRPC server with control, program and health services."""

    def __init__(self, control: ControlService, programs: ProgramService) -> None:
        self._health = HealthServicer()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        control_pb2_grpc.add_ControlServiceServicer_to_server(control, self._server)
        program_pb2_grpc.add_ProgramServiceServicer_to_server(programs, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: Address) -> Address:
        """Serve; returns the address with the port in use."""
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return Address(address.host, port)

    async def stop(self, grace_seconds: float) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)
