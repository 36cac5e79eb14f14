"""Wires a controller together and runs it until it is told to stop. Everything is built here,
once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from controller.api.app import MetricsOnly, create_app
from controller.api.context import ApiContext
from controller.config import Address, ControllerConfig, LauncherKind
from controller.core import commands
from controller.core.liveness import LivenessPolicy
from controller.runtime.host_service import ControlService, HostServer, ProgramService
from controller.runtime.launcher.base import Launcher, WorkerPlan
from controller.runtime.launcher.local import LocalLauncher
from controller.runtime.launcher.none import NoLauncher
from controller.runtime.loop import Loop
from controller.runtime.lowering import Lowerer
from controller.runtime.metrics import Metrics
from controller.runtime.store import Store

logger = logging.getLogger(__name__)

STREAM_GRACE_SECONDS = 2.0
"""Open event streams of browsers are cut off after this when the controller stops."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a controller answers."""

    http: str
    """URL of the API."""
    grpc: str
    """HOST:PORT that workers dial."""
    metrics: str
    """URL of the metrics for Prometheus."""


def serve(config: ControllerConfig, announce: Callable[[Endpoints], None]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status. Raises ConfigError, OSError.

    `announce` is called once, when every endpoint answers.
    """
    config.check()
    config.state_dir.mkdir(parents=True, exist_ok=True)
    _configure_logging(config.state_dir)
    return asyncio.run(_run(config, announce))


async def _run(config: ControllerConfig, announce: Callable[[Endpoints], None]) -> int:
    # Made inside the event loop: a gRPC server belongs to the loop it is made in.
    return await _Controller(config).run(announce)


class _Controller:
    """The objects of one controller and the order in which they start and stop."""

    def __init__(self, config: ControllerConfig) -> None:
        policy = LivenessPolicy()
        bundles = config.state_dir / "bundles"
        bundles.mkdir(exist_ok=True)
        self._config = config
        self._store = Store(config.database_url)
        self._metrics = Metrics(lambda: self._loop.state)
        self._loop = Loop(
            self._store,
            self._execute,
            policy=policy,
            observe_latency=self._metrics.observe_latency,
            observe_steps=self._metrics.observe_steps,
            observe_job=self._metrics.observe_job,
            observe_event=self._metrics.observe_event,
        )
        self._control = ControlService(
            self._loop.post,
            join_token=config.join_token,
            heartbeat_interval_seconds=policy.heartbeat_interval,
        )
        self._hosts = HostServer(self._control, ProgramService(bundles, config.join_token))
        self._lowerer = Lowerer(bundles, self._loop.post)
        self._launcher = _launcher(config)
        self._restarts: set[asyncio.Task[None]] = set()
        self._api = ApiContext(
            loop=self._loop,
            store=self._store,
            registry=self._metrics.registry,
            token=config.token,
            check_data_paths=config.launcher is LauncherKind.LOCAL,
            forget_job=self._metrics.forget,
        )

    async def run(self, announce: Callable[[Endpoints], None]) -> int:
        stop = _stop_signal()
        self._store.migrate()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._store.close)
            grpc_address = await self._hosts.start(self._config.grpc)
            stack.push_async_callback(self._hosts.stop, 1.0)
            stack.push_async_callback(self._lowerer.close)
            plan = self._worker_plan(grpc_address)
            # The loop stops first: pods that end because the controller does are not lost pods.
            stack.push_async_callback(self._launcher.stop)
            await self._loop.reload()
            loop_task = await stack.enter_async_context(_running(self._loop.run()))
            lag_task = await stack.enter_async_context(_running(self._metrics.watch_event_loop()))
            api_url, metrics_url, http_tasks = await stack.enter_async_context(self._answering())
            await self._launcher.start(plan)
            announce(Endpoints(api_url, str(grpc_address), f"{metrics_url}/metrics"))
            stopped = asyncio.create_task(stop.wait())
            tasks = {loop_task, lag_task, *http_tasks, stopped}
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return 0

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[tuple[str, str, list[asyncio.Task[None]]]]:
        """The URLs that serve the API and the metrics, and the tasks that do; raises OSError."""
        app = create_app(self._api)
        async with contextlib.AsyncExitStack() as stack:
            url, serving = await stack.enter_async_context(_http(app, self._config.http))
            urls, tasks = [url], [serving]
            if self._config.metrics is not None:
                url, serving = await stack.enter_async_context(
                    _http(MetricsOnly(app), self._config.metrics)
                )
                urls.append(url)
                tasks.append(serving)
            stack.callback(self._api.stopping.set)
            yield urls[0], urls[-1], tasks

    def _worker_plan(self, grpc_address: Address) -> WorkerPlan:
        return WorkerPlan(
            controller=str(grpc_address),
            fleet=self._config.fleet,
            join_token=self._config.join_token,
            state_dir=str(self._config.state_dir),
        )

    def _execute(self, command: commands.Command) -> None:
        match command:
            case commands.LowerProgram():
                self._lowerer.start(command)
            case commands.AbandonLowering(assignment):
                self._lowerer.abandon(assignment)
            case commands.RestartPod(pod, pids):
                restart = asyncio.create_task(self._launcher.restart_pod(pod, pids))
                self._restarts.add(restart)
                restart.add_done_callback(self._restarts.discard)
            case _:
                self._control.send(command)


def _launcher(config: ControllerConfig) -> Launcher:
    match config.launcher:
        case LauncherKind.LOCAL:
            return LocalLauncher()
        case LauncherKind.NONE:
            return NoLauncher()
        case LauncherKind.RAY:
            # The only import of ray there is, and only for those who ask for it.
            from controller.runtime.launcher.ray_launcher import RayLauncher

            return RayLauncher(config.ray_address)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextlib.asynccontextmanager
async def _running(coroutine: object) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(coroutine)  # type: ignore[arg-type]
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the controller has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: Address) -> socket.socket:
    """A listening socket, so that nobody who reads the ready line is refused."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def _http(app: ASGIApp, address: Address) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """The URL of a server for the block, and the task that serves; raises OSError."""
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(STREAM_GRACE_SECONDS),
        )
    )
    sock = _listen(address)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield f"http://{Address(address.host, sock.getsockname()[1])}", task
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


def _configure_logging(state_dir: pathlib.Path) -> None:
    """Decisions and warnings go to a file; a terminal that runs `up` shows warnings only."""
    line = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    line.converter = time.gmtime
    logs = state_dir / "logs"
    logs.mkdir(exist_ok=True)
    to_file = logging.FileHandler(logs / "controller.log")
    to_file.setFormatter(line)
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.WARNING)
    to_terminal.setFormatter(line)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [to_file, to_terminal]
