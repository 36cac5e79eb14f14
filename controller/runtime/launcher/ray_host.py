"""The actor of one host: runs the worker's command line on whatever node Ray chose.

The worker is a subprocess and not a call in the actor's own process. Ray's process has Ray's
threads, signal handlers, allocator and gRPC in it, and jax would have to share them; a worker must
end for one SIGKILL and leave the actor to tell of it; and a process that is started like a local
one behaves, and fails, like a local one. The subprocess dies with the actor, for nobody would watch
over it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection

import ray.util

from controller.config import Address
from controller.runtime.launcher.base import WorkerPlan
from controller.runtime.launcher.command import (
    leashed,
    log_path,
    worker_command,
    worker_environment,
)
from controller.runtime.launcher.processes import Process, end_processes, start_process


class RayHost:
    """One worker process and its end."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def run(self, plan: WorkerPlan, pod: str, index: int) -> int:
        """Start the worker; returns its exit status when it has ended."""
        listen = _listen_address(plan.controller)
        self._process = await start_process(
            leashed(worker_command(plan, pod, index, listen=listen)),
            worker_environment(plan, os.environ),
            log_path(plan, pod, index),
        )
        return await self._process.wait()

    async def end(self, first: signal.Signals, pids: Collection[int] | None = None) -> None:
        """End the worker, if it is one of `pids` where these are given; returns when it is gone."""
        process = self._process
        if process is not None and (pids is None or process.pid in pids):
            await end_processes([process], first)


def _listen_address(controller: str) -> str:
    """Peers are on other nodes unless the controller, too, can only be reached on this machine."""
    if Address.parse(controller).is_loopback:
        return ""
    return str(Address(ray.util.get_node_ip_address(), 0))
