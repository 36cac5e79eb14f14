"""One controller at a time on what is stored: the others are refused, or stand by and take over.

Who stands by touches nothing of the store and listens for no workers. It answers health checks
alone, as one that is alive and not ready, so that whatever sends requests by readiness finds the
controller that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import pathlib
import socket
from collections.abc import AsyncIterator, Callable

import sqlalchemy as sa
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from controller.api.answers import json_response
from controller.api.middleware import Guard, RequestIds
from controller.api.problems import ApiProblem, problem_response
from controller.config import Address, ControllerConfig
from controller.http_server import AddressInUse, serving
from controller.runtime import lease
from controller.runtime.lease import Holder, Lease, LeaseHeld
from controller.runtime.store_failure import file_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How long after its end a controller is followed by one that stands by; hosts dial again within
3 s."""

PORTS_SECONDS = 5.0
"""A killed process lets go of its lock a moment before its ports, on the same machine."""


async def hold(config: ControllerConfig, stop: asyncio.Event) -> list[Lease] | None:
    """The leases on all that this controller is to change, None when it was told to stop while it
    stood by. Raises LeaseHeld where it is not to stand by; OSError."""
    me = Holder.this_process(f"http://{config.http}", str(config.grpc))
    try:
        return _take_all(config, me)
    except LeaseHeld:
        if not config.standby:
            raise
        logger.warning("%s", _position(config))
        async with _answering_health(config):
            leases = await _wait(config, me, stop)
    if leases is not None:
        await _wait_for_ports(config)
        logger.warning("took over %s", config.state_dir)
    return leases


def lock_files(config: ControllerConfig) -> list[pathlib.Path]:
    """That of the state directory, and one beside an SQLite file that lies elsewhere."""
    files = [config.state_dir / lease.NAME]
    store = file_of(sa.make_url(config.database_url))
    if store is not None and store.resolve().parent != config.state_dir.resolve():
        files.append(store.with_name(f"{store.name}.lock"))
    return files


def _take_all(config: ControllerConfig, me: Holder) -> list[Lease]:
    with contextlib.ExitStack() as stack:
        leases = []
        for path in lock_files(config):
            taken = lease.take(path, me)
            stack.callback(taken.release)
            leases.append(taken)
        stack.pop_all()
        return leases


async def _wait(config: ControllerConfig, me: Holder, stop: asyncio.Event) -> list[Lease] | None:
    said = _position(config)
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await stop.wait()
                return None
        try:
            return _take_all(config, me)
        except LeaseHeld:
            if (now := _position(config)) != said:
                logger.warning("%s", now)
                said = now


def _position(config: ControllerConfig) -> str:
    """For whom it stands by."""
    found = [holder for path in lock_files(config) if (holder := lease.read(path))]
    holder = found[0] if found else "another controller"
    return f"stands by: {config.state_dir} is held by {holder}"


@contextlib.asynccontextmanager
async def _answering_health(config: ControllerConfig) -> AsyncIterator[None]:
    health = HealthOfStandby(lambda: _position(config))
    async with contextlib.AsyncExitStack() as stack:
        try:
            app = RequestIds(Guard(health, config.token))
            await stack.enter_async_context(serving(app, config.http))
        except AddressInUse as error:
            # By the one that runs, on the same machine.
            logger.warning("answers no health checks while it stands by: %s", error)
        yield


class HealthOfStandby:
    """Alive, and ready for nothing."""

    def __init__(self, position: Callable[[], str]) -> None:
        """`position` says for whom it stands by, to those who may ask the API."""
        self._position = position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/livez":
            await json_response({"status": "ok"})(scope, receive, send)
            return
        is_open = scope["path"] == "/readyz"
        detail = "stands by for another controller" if is_open else self._position()
        problem = ApiProblem(503, "stands-by", detail, headers={"Retry-After": "1"})
        await problem_response(Request(scope), problem)(scope, receive, send)


async def _wait_for_ports(config: ControllerConfig) -> None:
    """What is still taken after that is for the servers to complain about."""
    addresses = [config.http, config.grpc, config.metrics]
    clock = asyncio.get_running_loop().time
    end = clock() + PORTS_SECONDS
    for address in filter(None, addresses):
        while _is_taken(address) and clock() < end:  # noqa: ASYNC110, the system tells nobody
            await asyncio.sleep(0.05)


def _is_taken(address: Address) -> bool:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
