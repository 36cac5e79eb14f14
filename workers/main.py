"""Wires a host together and runs it until it is dismissed or told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import pathlib
import signal
import sys
import threading
import time

import jax

from protos import control_pb2
from workers import coordinator, telemetry
from workers.config import WorkerConfig
from workers.exchange.agreement import RemoteAgreement, SoleAgreement, StepAgreement
from workers.exchange.base import StepKey
from workers.exchange.emulator import LinkEmulator, parse_bandwidth, parse_latency
from workers.exchange.grpc_exchange import GrpcExchange
from workers.executor import Executor
from workers.host import Host, HostIdentity
from workers.orders import Inventory, Report

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 2.0
"""A step under way may finish within this; the launcher kills after 3 s."""


def serve(config: WorkerConfig) -> int:
    """Run one host; returns the exit status. Raises OSError and ValueError for a bad
    configuration."""
    _check(config)
    _configure_logging(config)
    _bind_cores(config.cpus)
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
        lead = StepAgreement(config.hosts, self._on_refused) if self._is_lead_of_many else None
        self._exchange = GrpcExchange(config.listen, _emulator(config), lead, config.join_token)
        self._executor = Executor(self._exchange, lead or SoleAgreement(), self._report)
        self._reserved: coordinator.ReservedPort | None = None
        if lead is not None:
            self._reserved = coordinator.ReservedPort(_host_of(config.listen))
        self._joined = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        identity = self._identity()
        self._host = Host(
            config.controller, identity, self._executor, self._exchange, self._assemble
        )

    @property
    def _is_lead_of_many(self) -> bool:
        return self._config.hosts > 1 and self._config.host_index == 0

    async def run(self) -> int:
        loop = self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._executor.run, name="executor", daemon=True)
        thread.start()
        serving = asyncio.create_task(self._host.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.cancel)
        try:
            await serving
        except asyncio.CancelledError:
            logger.info("told to stop")
        self._executor.close()
        await asyncio.to_thread(thread.join, STOP_GRACE_SECONDS)
        return 0

    def _report(self, report: Report) -> None:
        """From the executor's thread to the event loop's."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._host.report, report)

    def _on_refused(self, key: StepKey, reason: str) -> None:
        self._exchange.abort(key.job, key.generation, reason)

    async def _assemble(self, order: control_pb2.AssemblePod) -> Inventory:
        return await asyncio.to_thread(self._initialise, order)

    def _initialise(self, order: control_pb2.AssemblePod) -> Inventory:
        """Join the pod and look at the devices; a pod cannot be joined a second time."""
        config = self._config
        if config.hosts > 1 and self._joined != order.coordinator_address:
            if self._joined:
                raise RuntimeError(f"this process belongs to the pod at {self._joined}")
            bind = None
            if self._reserved is not None:
                bind = f"{_host_of(config.listen)}:{self._reserved.port}"
            coordinator.join_pod(order.coordinator_address, bind, config.hosts, config.host_index)
            self._joined = order.coordinator_address
            if not self._is_lead_of_many:
                remote = RemoteAgreement(
                    order.lead_link_address, config.host_index, config.join_token
                )
                self._executor.use_agreement(remote)
        return telemetry.inventory()

    def _identity(self) -> HostIdentity:
        config = self._config
        advertised = config.advertise or _host_of(config.listen)
        if ":" in advertised:
            link_address, host = advertised, _host_of(advertised)
        else:
            link_address, host = f"{advertised}:{self._exchange.port}", advertised
        return HostIdentity(
            pod=config.pod,
            index=config.host_index,
            num_hosts=config.hosts,
            link_address=link_address,
            coordinator_address=f"{host}:{self._reserved.port}" if self._reserved else "",
            join_token=config.join_token,
        )


def _check(config: WorkerConfig) -> None:
    """Refuse what would leave the link open to everybody, or peers without an address to dial."""
    host = _host_of(config.listen)
    if host in ("0.0.0.0", "[::]", "") and not config.advertise:
        raise ValueError(
            f"--listen {config.listen} is no address that peers can dial; add --advertise HOST:PORT"
        )
    if not _is_loopback(host) and not config.join_token:
        raise ValueError(
            f"--listen {config.listen} is reachable from other machines and no join token is set; "
            "set LANDBRIDGE_JOIN_TOKEN or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _emulator(config: WorkerConfig) -> LinkEmulator | None:
    if not config.link_bandwidth and not config.link_latency:
        return None
    bandwidth = parse_bandwidth(config.link_bandwidth) if config.link_bandwidth else None
    latency = parse_latency(config.link_latency) if config.link_latency else 0.0
    return LinkEmulator(bandwidth, latency)


def _host_of(address: str) -> str:
    return address.rpartition(":")[0]


def _bind_cores(cpus: tuple[int, ...]) -> None:
    """Before XLA makes its thread pools, which take their size from this."""
    if cpus:
        os.sched_setaffinity(0, cpus)


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
