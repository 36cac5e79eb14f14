"""An ASGI application at an address, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from controller.config import Address

STREAM_GRACE_SECONDS = 2.0
"""Open event streams of browsers are cut off after this when the controller stops."""


class AddressInUse(OSError):
    """Another process listens there."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the controller has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(address: Address) -> socket.socket:
    """A listening socket, so that nobody who reads the ready line is refused."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        kind = AddressInUse if error.errno == errno.EADDRINUSE else OSError
        raise kind(f"cannot listen on {address}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, address: Address) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """The URL of a server for the block, and the task that serves; raises OSError."""
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(STREAM_GRACE_SECONDS),
        )
    )
    sock = listen(address)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield f"http://{Address(address.host, sock.getsockname()[1])}", task
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
