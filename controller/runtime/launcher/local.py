"""Pods simulated on this machine: one subprocess per host, each pod on its own share of the cores.

Pods that shared cores would slow each other down and make every utilisation figure a lie, so a pod
is bound to its part when there are at least as many cores as pods. A process that ends is started
again, together with the rest of its pod; a pod that cannot be started is tried again, ever later.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Collection, Iterator, Sequence

from controller.runtime.launcher.base import WorkerPlan
from controller.runtime.launcher.command import (
    leashed,
    log_path,
    pod_names,
    worker_command,
    worker_environment,
)
from controller.runtime.launcher.processes import (
    Process,
    RestartDelay,
    end_processes,
    start_process,
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _PodProcesses:
    """The subprocesses of one pod and the task that watches over them."""

    name: str
    processes: list[Process] = dataclasses.field(default_factory=list)
    watcher: asyncio.Task[None] | None = None


class LocalLauncher:
    """Subprocesses of this machine."""

    def __init__(self) -> None:
        self._plan: WorkerPlan | None = None
        self._pods: dict[str, _PodProcesses] = {}

    async def start(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._pods = {name: _PodProcesses(name) for name in pod_names(plan.fleet.pods)}
        for pod in self._pods.values():
            pod.watcher = asyncio.create_task(self._keep_running(pod))

    async def restart_pod(self, pod: str, pids: Collection[int]) -> None:
        """Ending a process is enough: the watcher starts a pod anew whenever one of it ends."""
        known = self._pods.get(pod)
        if known is None:
            logger.warning("%s was started by somebody else, who must start it again", pod)
            return
        meant = [process for process in known.processes if process.pid in pids]
        await end_processes(meant, signal.SIGKILL)

    async def stop(self) -> None:
        for pod in self._pods.values():
            if pod.watcher is not None:
                pod.watcher.cancel()
        watchers = [pod.watcher for pod in self._pods.values() if pod.watcher]
        await asyncio.gather(*watchers, return_exceptions=True)
        pods = self._pods.values()
        await asyncio.gather(*(end_processes(pod.processes, signal.SIGINT) for pod in pods))

    async def _keep_running(self, pod: _PodProcesses) -> None:
        clock = asyncio.get_running_loop().time
        delay = RestartDelay()
        while True:
            started = clock()
            with _errors_reported(pod.name):
                await self._start_processes(pod)
                status = await _first_status(pod.processes)
                logger.warning("a process of %s ended with status %s", pod.name, status)
            with _errors_reported(pod.name):
                await end_processes(pod.processes, signal.SIGKILL)
            await asyncio.sleep(delay.after(clock() - started))

    async def _start_processes(self, pod: _PodProcesses) -> None:
        plan = self._plan
        assert plan is not None
        cores = core_share(_own_cores(), list(self._pods).index(pod.name), len(self._pods))
        pod.processes = []
        for index in range(plan.fleet.hosts_per_pod):
            process = await start_process(
                # A worker whose controller was killed would dial it again for ten minutes.
                leashed(worker_command(plan, pod.name, index, cores=cores)),
                worker_environment(plan, os.environ),
                log_path(plan, pod.name, index),
            )
            pod.processes.append(process)


@contextlib.contextmanager
def _errors_reported(pod: str) -> Iterator[None]:
    """For a watcher, which goes on: one that ended by an error would leave its pod down for good
    and nobody told."""
    try:
        yield
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        logger.exception("%s could not be kept running and is tried again: %s", pod, why)


async def _first_status(processes: Sequence[Process]) -> int:
    """Exit status of the first of them that ends."""
    ends = [asyncio.create_task(process.wait()) for process in processes]
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for end in ends:
            end.cancel()


def _own_cores() -> list[int]:
    """Those this process may use; none where processes cannot be bound (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def core_share(cores: list[int], pod_index: int, num_pods: int) -> list[int]:
    """The cores of one pod: equal disjoint parts, or all of them when there are too few."""
    size = len(cores) // num_pods
    return cores[pod_index * size : (pod_index + 1) * size] if size else cores
