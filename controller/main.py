"""Wires a controller together and runs it until it is told to stop. Everything is built here,
once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from controller import standby
from controller.api.app import MetricsOnly, create_app
from controller.api.context import ApiContext
from controller.config import Address, ControllerConfig, LauncherKind
from controller.core import commands
from controller.core.liveness import LivenessPolicy
from controller.http_server import serving
from controller.runtime.host_service import ControlService, HostServer, ProgramService
from controller.runtime.launcher.base import Launcher, WorkerPlan
from controller.runtime.launcher.local import LocalLauncher
from controller.runtime.launcher.none import NoLauncher
from controller.runtime.lease import Holder, Lease, LeaseLost
from controller.runtime.loop import Loop
from controller.runtime.lowering import Lowerer
from controller.runtime.metrics import Metrics
from controller.runtime.store import Store
from controller.runtime.store_failure import StoreFailed

logger = logging.getLogger(__name__)


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
    """Run until SIGTERM or SIGINT; returns the exit status. Raises ConfigError, OSError; LeaseHeld
    where another controller runs on this state; LeaseLost and StoreFailed where nothing can be
    put on record any more.

    `announce` is called once, when every endpoint answers.
    """
    config.check()
    _log_to_terminal()
    return asyncio.run(_run(config, announce))


async def _run(config: ControllerConfig, announce: Callable[[Endpoints], None]) -> int:
    stop = _stop_signal()
    with contextlib.ExitStack() as stack:
        leases = await standby.hold(config, stop)
        if leases is None:
            return 0
        for lease in leases:
            stack.callback(lease.release)
        stack.enter_context(_log_to_file(config.state_dir))
        try:
            # Made inside the event loop: a gRPC server belongs to the loop it is made in.
            return await _Controller(config, leases).run(stop, announce)
        except (LeaseLost, StoreFailed) as error:
            logger.error("the controller stops: %s", error)
            raise


class _Controller:
    """The objects of one controller and the order in which they start and stop."""

    def __init__(self, config: ControllerConfig, leases: Sequence[Lease]) -> None:
        policy = LivenessPolicy()
        bundles = config.state_dir / "bundles"
        bundles.mkdir(exist_ok=True)
        self._config = config
        self._leases = leases
        self._store = Store(config.database_url)
        self._metrics = Metrics(lambda: self._loop.state)
        self._loop = Loop(
            self._store,
            self._execute,
            policy=policy,
            may_write=self._check_leases,
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

    async def run(self, stop: asyncio.Event, announce: Callable[[Endpoints], None]) -> int:
        self._store.verify()
        self._store.migrate()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._store.close)
            # Before any host can dial: one that holds a job nobody knows of is told to stop.
            await self._loop.reload()
            grpc_address = await self._hosts.start(self._config.grpc)
            stack.push_async_callback(self._hosts.stop, 1.0)
            stack.push_async_callback(self._lowerer.close)
            plan = self._worker_plan(grpc_address)
            # The loop stops first: pods that end because the controller does are not lost pods.
            stack.push_async_callback(self._launcher.stop)
            loop_task = await stack.enter_async_context(_running(self._loop.run()))
            lag_task = await stack.enter_async_context(_running(self._metrics.watch_event_loop()))
            api_url, metrics_url, http_tasks = await stack.enter_async_context(self._answering())
            await self._launcher.start(plan)
            holder = Holder.this_process(api_url, str(grpc_address))
            for lease in self._leases:
                lease.tell(holder)
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
            url, answering = await stack.enter_async_context(serving(app, self._config.http))
            urls, tasks = [url], [answering]
            if self._config.metrics is not None:
                url, answering = await stack.enter_async_context(
                    serving(MetricsOnly(app), self._config.metrics)
                )
                urls.append(url)
                tasks.append(answering)
            stack.callback(self._api.stopping.set)
            yield urls[0], urls[-1], tasks

    def _check_leases(self) -> None:
        for lease in self._leases:
            lease.check()

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


class _LogFile(logging.FileHandler):
    """A log that has no room is not worth a traceback for every line: the store has none either,
    and says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _log_to_terminal() -> None:
    """A terminal that runs `up` shows warnings only."""
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.WARNING)
    to_terminal.setFormatter(_line())
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [to_terminal]


@contextlib.contextmanager
def _log_to_file(state_dir: pathlib.Path) -> Iterator[None]:
    """Decisions and warnings go to a file, which is that of the controller that runs here."""
    logs = state_dir / "logs"
    logs.mkdir(exist_ok=True)
    to_file = _LogFile(logs / "controller.log")
    to_file.setFormatter(_line())
    logging.getLogger().addHandler(to_file)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(to_file)
        # What there was no room for is not written now either.
        with contextlib.suppress(OSError):
            to_file.close()


def _line() -> logging.Formatter:
    line = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    line.converter = time.gmtime
    return line
