"""Wires a host together and runs it until it is dismissed or told to stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import pathlib
import random
import signal
import sys
import threading
import time

import jax

from protos import control_pb2
from workers import coordinator, telemetry
from workers.address import Address
from workers.config import WorkerConfig
from workers.emulated_device import load_at
from workers.exchange.agreement import RemoteAgreement, SoleAgreement, StepAgreement
from workers.exchange.base import StepKey
from workers.exchange.conditions import parse_conditions
from workers.exchange.emulator import LinkEmulator
from workers.exchange.grpc_exchange import GrpcExchange
from workers.executor import Executor
from workers.host import Host, HostIdentity
from workers.orders import Inventory, Report
from workers.program import Loader, load

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 2.0
"""A step under way may finish within this; the launcher kills after 3 s."""


def serve(config: WorkerConfig) -> int:
    """Run one host; returns the exit status. Raises OSError and ValueError for a bad
    configuration."""
    _check(config)
    _configure_logging(config)
    bind_cores(config.cpus)
    _set_up_jax(config)
    status = asyncio.run(_Worker(config).run())
    logging.shutdown()
    sys.stdout.flush()
    # A step that does not end keeps its thread, and jax's exit hooks would wait for it.
    os._exit(status)


class _Worker:
    """The objects of one host."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._listen = Address.parse(config.listen)
        lead = StepAgreement(config.hosts, self._on_refused) if self._is_lead_of_many else None
        emulator = _emulator(config)
        self._exchange = GrpcExchange(str(self._listen), emulator, lead, config.join_token)
        self._executor = Executor(
            self._exchange,
            lead or SoleAgreement(),
            self._report,
            config.state_dir / "tokens",
            _loader(config),
        )
        self._reserved: coordinator.ReservedPort | None = None
        if lead is not None:
            self._reserved = coordinator.ReservedPort(self._listen.host)
        self._loop: asyncio.AbstractEventLoop | None = None
        identity = self._identity()
        self._host = Host(
            config.controllers,
            identity,
            self._executor,
            self._exchange,
            self._assemble,
            config.state_dir / "checkpoints",
            emulator,
        )

    @property
    def _is_lead_of_many(self) -> bool:
        return self._config.hosts > 1 and self._config.host_index == 0

    async def run(self) -> int:
        loop = self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._executor.run, name="executor", daemon=True)
        thread.start()
        serving = asyncio.create_task(self._host.run())
        loop.add_signal_handler(signal.SIGINT, serving.cancel)
        loop.add_signal_handler(signal.SIGTERM, self._leave, serving)
        status = 0
        try:
            await serving
        except asyncio.CancelledError:
            logger.info("told to stop")
        self._executor.close()
        await asyncio.to_thread(thread.join, STOP_GRACE_SECONDS)
        return status

    def _leave(self, serving: asyncio.Task[None]) -> None:
        """Hand over first: whoever sends SIGTERM means to take the machine away. A second one means
        now."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, serving.cancel)
        loop.call_later(self._config.leave_grace_seconds, serving.cancel)
        self._host.leave(self._config.leave_grace_seconds)

    def _report(self, report: Report) -> None:
        """From the executor's thread to the event loop's."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._host.report, report)

    def _on_refused(self, key: StepKey, reason: str) -> None:
        self._exchange.abort(key.job, key.generation, reason)

    async def _assemble(self, order: control_pb2.AssemblePod) -> Inventory:
        return await asyncio.to_thread(self._initialise, order)

    def _initialise(self, order: control_pb2.AssemblePod) -> Inventory:
        """Join the pod and look at the devices. A pod of several hosts cannot be joined a second
        time: jax refuses, and Host does not dial again."""
        config = self._config
        if config.hosts > 1:
            bind = None
            if self._reserved is not None:
                bind = str(Address(self._listen.host, self._reserved.port))
            coordinator.join_pod(order.coordinator_address, bind, config.hosts, config.host_index)
            if not self._is_lead_of_many:
                remote = RemoteAgreement(
                    order.lead_link_address, config.host_index, config.join_token
                )
                self._executor.use_agreement(remote)
        return telemetry.inventory(config.device_flops_per_second)

    def _identity(self) -> HostIdentity:
        config = self._config
        link = Address(self._listen.host, self._exchange.port)
        if config.advertise:
            link = Address.parse(config.advertise, default_port=self._exchange.port)
        coordinator_address = Address(link.host, self._reserved.port) if self._reserved else ""
        return HostIdentity(
            pod=config.pod,
            index=config.host_index,
            num_hosts=config.hosts,
            link_address=str(link),
            coordinator_address=str(coordinator_address),
            join_token=config.join_token,
        )


def _check(config: WorkerConfig) -> None:
    """Refuse what would leave the link open to everybody, or peers without an address to dial, and
    an emulated link that is none."""
    parse_conditions(config.link)
    for controller in config.controllers:
        _address("--controller", controller)
    listen = _address("--listen", config.listen)
    if config.advertise:
        _address("--advertise", config.advertise, default_port=listen.port)
    if listen.is_unspecified and not config.advertise:
        raise ValueError(
            f"--listen {config.listen} is no address that peers can dial; add --advertise HOST:PORT"
        )
    if not listen.is_loopback and not config.join_token:
        raise ValueError(
            f"--listen {config.listen} is reachable from other machines and no join token is set; "
            "set LANDBRIDGE_JOIN_TOKEN or listen on 127.0.0.1"
        )


def _address(option: str, text: str, default_port: int | None = None) -> Address:
    try:
        return Address.parse(text, default_port)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _emulator(config: WorkerConfig) -> LinkEmulator | None:
    if not config.link_emulator and not any(config.link.values()):
        return None
    # Of its own for each host, and the same when the fleet is started again.
    chance = random.Random(f"{config.pod}/{config.host_index}")
    return LinkEmulator(parse_conditions(config.link), chance)


def _loader(config: WorkerConfig) -> Loader:
    """What makes bundles runnable on this host's devices, or on emulated ones."""
    if config.device_flops_per_second is None:
        return load
    return functools.partial(load_at, config.device_flops_per_second)


def bind_cores(cpus: tuple[int, ...]) -> None:
    """Keep this process to these cores, where the system can; empty for all.

    To be called before XLA makes its thread pools, which take their size from this.
    """
    if not cpus:
        return
    bind = getattr(os, "sched_setaffinity", None)
    if bind is None:
        cores = ",".join(map(str, cpus))
        logger.warning("this system binds no process to cores; cores %s are not kept to", cores)
        return
    bind(0, cpus)


def _set_up_jax(config: WorkerConfig) -> None:
    """Before any backend exists."""
    # XLA's CPU backend splits large sums by the size of its thread pool, and bits must not depend
    # on how many cores a pod happens to get. With 1 the pool has a thread per CPU device;
    # accelerators do not look at it.
    os.environ["NPROC"] = "1"
    if config.devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", config.devices)
    # It would take SIGTERM away from us, and a worker must end when it is told to.
    jax.config.update("jax_enable_preemption_service", False)
    cache = config.state_dir / "compilation-cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _configure_logging(config: WorkerConfig) -> None:
    line = f"%(asctime)s %(levelname)-7s {config.pod}/{config.host_index} %(name)s: %(message)s"
    formatter = logging.Formatter(line)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.INFO)
    pathlib.Path(config.state_dir).mkdir(parents=True, exist_ok=True)
