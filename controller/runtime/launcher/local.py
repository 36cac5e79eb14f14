"""Pods simulated on this machine: one subprocess per host, each pod on its own share of the cores.

Pods that shared cores would slow each other down and make every utilisation figure a lie, so a pod
is bound to its part when there are at least as many cores as pods. A process that ends is started
again, together with the rest of its pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Collection

from controller.runtime.launcher.base import WorkerPlan

logger = logging.getLogger(__name__)

TERM_GRACE_SECONDS = 3.0
"""jax.distributed takes SIGTERM for itself, so some processes only leave for SIGKILL."""

RESTART_DELAYS_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the first, second, ... restart in a row; a pod that lived for a minute starts over at
0."""

_STEADY_SECONDS = 60.0


@dataclasses.dataclass(slots=True)
class _PodProcesses:
    """The subprocesses of one pod and the task that watches over them."""

    name: str
    processes: list[asyncio.subprocess.Process] = dataclasses.field(default_factory=list)
    watcher: asyncio.Task[None] | None = None
    failures: int = 0


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
        meant = [process for process in self._pods[pod].processes if process.pid in pids]
        await _end(meant, signal.SIGKILL)

    async def stop(self) -> None:
        for pod in self._pods.values():
            if pod.watcher is not None:
                pod.watcher.cancel()
        watchers = [pod.watcher for pod in self._pods.values() if pod.watcher]
        await asyncio.gather(*watchers, return_exceptions=True)
        await asyncio.gather(*(_end(p.processes, signal.SIGTERM) for p in self._pods.values()))

    async def _keep_running(self, pod: _PodProcesses) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            await self._start_processes(pod)
            ends = [asyncio.create_task(process.wait()) for process in pod.processes]
            done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            logger.warning("a process of %s ended with status %s", pod.name, done.pop().result())
            await _end(pod.processes, signal.SIGKILL)
            await asyncio.gather(*pending)
            pod.failures = 0 if clock() - started > _STEADY_SECONDS else pod.failures + 1
            delay = RESTART_DELAYS_SECONDS[min(pod.failures, len(RESTART_DELAYS_SECONDS)) - 1]
            await asyncio.sleep(delay if pod.failures else 0.0)

    async def _start_processes(self, pod: _PodProcesses) -> None:
        assert self._plan is not None
        pod.processes = []
        for index in range(self._plan.fleet.hosts_per_pod):
            pod.processes.append(await self._start_process(pod.name, index))

    async def _start_process(self, pod: str, index: int) -> asyncio.subprocess.Process:
        plan = self._plan
        assert plan is not None
        state = pathlib.Path(plan.state_dir)
        log = state / "logs" / f"{pod}-host-{index}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        cores = core_share(
            sorted(os.sched_getaffinity(0)), list(self._pods).index(pod), len(self._pods)
        )
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *worker_command(plan, pod, index, cores),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "LANDBRIDGE_JOIN_TOKEN": plan.join_token},
                # Its own session: Ctrl-C at the terminal reaches `up` alone, which ends workers
                # itself.
                start_new_session=True,
            )


def pod_names(count: int) -> list[str]:
    return [f"pod-{index}" for index in range(count)]


def core_share(cores: list[int], pod_index: int, num_pods: int) -> list[int]:
    """The cores of one pod: equal disjoint parts, or all of them when there are too few."""
    size = len(cores) // num_pods
    return cores[pod_index * size : (pod_index + 1) * size] if size else cores


def worker_command(plan: WorkerPlan, pod: str, index: int, cores: list[int]) -> list[str]:
    """The command line of one host; the join token travels in the environment, never here."""
    fleet = plan.fleet
    command = [sys.executable, "-m", "landbridge", "worker"]
    command += ["--controller", plan.controller, "--pod", pod, "--host-index", str(index)]
    command += ["--hosts", str(fleet.hosts_per_pod), "--devices", str(fleet.devices_per_host)]
    command += ["--state-dir", plan.state_dir, "--cpus", ",".join(map(str, cores))]
    if fleet.link_bandwidth:
        command += ["--link-bandwidth", fleet.link_bandwidth]
    if fleet.link_latency:
        command += ["--link-latency", fleet.link_latency]
    return command


async def _end(processes: list[asyncio.subprocess.Process], first: signal.Signals) -> None:
    """Send `first`, then KILL to what is left after the grace; returns when all are gone."""
    alive = [process for process in processes if process.returncode is None]
    for process in alive:
        _signal(process, first)
    if first is not signal.SIGKILL and alive:
        ends = [asyncio.create_task(process.wait()) for process in alive]
        await asyncio.wait(ends, timeout=TERM_GRACE_SECONDS)
        for process in alive:
            _signal(process, signal.SIGKILL)
    await asyncio.gather(*(process.wait() for process in alive))


def _signal(process: asyncio.subprocess.Process, which: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, which)
