"""A controller of the host stream alone: a test reads what hosts say and tells them what to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc

from protos import control_pb2 as pb
from protos import control_pb2_grpc

WAIT = 60.0
"""Seconds after which a test fails instead of waiting on; a worker imports jax within them."""


class Stream:
    """One Attach call. Its end is the controller's doing."""

    def __init__(self, hello: pb.HostHello, events: AsyncIterator[pb.HostEvent]) -> None:
        self.hello = hello
        self._events = events
        self._commands: asyncio.Queue[pb.HostCommand | None] = asyncio.Queue()
        self.is_broken = False

    def order(self, command: pb.HostCommand) -> None:
        self._commands.put_nowait(command)

    def end(self) -> None:
        """As a controller does that stops."""
        self._commands.put_nowait(None)

    def break_off(self) -> None:
        """As a controller that is gone looks from afar."""
        self.is_broken = True
        self._commands.put_nowait(None)

    def assemble(self, lead: Stream) -> None:
        """Have the host initialise its accelerators in the pod of `lead`."""
        self.order(
            pb.HostCommand(
                assemble_pod=pb.AssemblePod(
                    coordinator_address=lead.hello.coordinator_address,
                    lead_link_address=lead.hello.link_address,
                    heartbeat_interval_seconds=1.0,
                    lead_incarnation=lead.hello.incarnation,
                )
            )
        )

    async def hear(self, kind: str) -> pb.HostEvent:
        """The next event of that kind."""
        async with asyncio.timeout(WAIT):
            async for event in self._events:
                if event.WhichOneof("event") == kind:
                    return event
        raise AssertionError(f"the host went away before its {kind}")

    async def commands(self) -> AsyncIterator[pb.HostCommand]:
        while (command := await self._commands.get()) is not None:
            yield command


class FakeController(control_pb2_grpc.ControlServiceServicer):
    """Serves Attach and nothing else."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()
        self._server = server
        self.address = ""

    async def stop(self) -> None:
        """As a controller does that is gone: nobody listens at its address any more."""
        await self._server.stop(None)

    async def Attach(
        self, request_iterator: AsyncIterator[pb.HostEvent], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.HostCommand]:
        stream = Stream((await anext(request_iterator)).hello, request_iterator)
        self._streams.put_nowait(stream)
        async for command in stream.commands():
            yield command
        if stream.is_broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as the test asked")

    async def attached(self) -> Stream:
        """The next host that dials."""
        async with asyncio.timeout(WAIT):
            return await self._streams.get()


@contextlib.asynccontextmanager
async def fake_controller() -> AsyncIterator[FakeController]:
    server = grpc.aio.server()
    controller = FakeController(server)
    control_pb2_grpc.add_ControlServiceServicer_to_server(controller, server)
    controller.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield controller
    finally:
        await server.stop(None)
