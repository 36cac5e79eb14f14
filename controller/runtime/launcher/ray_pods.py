"""A placement group per pod, an actor per host, and a worker running in each.

Ray finds the nodes, keeps the hosts of a pod together (STRICT_PACK) and restarts actors that die,
on another node if need be. Its calls block, so they are made in a thread of their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import signal
from collections.abc import Awaitable, Callable, Collection
from typing import Any, ParamSpec, TypeVar

import ray
import ray.exceptions
import ray.util
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from controller.config import Address
from controller.runtime.launcher.base import WorkerPlan
from controller.runtime.launcher.command import pod_names
from controller.runtime.launcher.processes import TERM_GRACE_SECONDS, RestartDelay
from controller.runtime.launcher.ray_host import RayHost

logger = logging.getLogger(__name__)

PLACEMENT_WARNING_SECONDS = 10.0
"""A cluster with room places a pod in well under a second; one that scales up takes minutes."""

END_TIMEOUT_SECONDS = TERM_GRACE_SECONDS + 2.0
"""An actor that has not answered by then is out of reach; its worker dies with it."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Pod:
    """The actors of one pod and the task that keeps workers running in them."""

    name: str
    group: PlacementGroup | None = None
    hosts: list[Any] = dataclasses.field(default_factory=list)
    watcher: asyncio.Task[None] | None = None


class RayPods:
    """All pods of a fleet on one cluster."""

    def __init__(self, cpus_per_host: int) -> None:
        self._cpus_per_host = cpus_per_host
        self._plan: WorkerPlan | None = None
        self._pods: dict[str, _Pod] = {}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "ray")

    async def start(self, address: str, plan: WorkerPlan) -> None:
        """Raises ConnectionError when there is no cluster."""
        await self._call(_connect, address)
        dialled = await self._call(_reachable, Address.parse(plan.controller))
        self._plan = dataclasses.replace(plan, controller=str(dialled))
        for name in pod_names(plan.fleet.pods):
            pod = self._pods[name] = _Pod(name)
            pod.watcher = asyncio.create_task(self._keep_running(pod))

    async def end_workers(self, pod: str, pids: Collection[int]) -> None:
        """Ending one is enough: the watcher starts a pod anew whenever a worker of it ends."""
        known = self._pods.get(pod)
        if known is None:
            logger.warning("%s was started by somebody else, who must start it again", pod)
            return
        await self._end(known, signal.SIGKILL, list(pids))

    async def stop(self) -> None:
        """End workers and remove actors, placement groups and the connection."""
        watchers = [pod.watcher for pod in self._pods.values() if pod.watcher]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await asyncio.gather(*(self._end(pod, signal.SIGINT) for pod in self._pods.values()))
        await self._call(self._disconnect)
        self._thread.shutdown()

    def _disconnect(self) -> None:
        for pod in self._pods.values():
            for host in pod.hosts:
                ray.kill(host)
            if pod.group is not None:
                remove_placement_group(pod.group)
        ray.shutdown()

    async def _keep_running(self, pod: _Pod) -> None:
        clock = asyncio.get_running_loop().time
        delay = RestartDelay()
        await self._place(pod)
        while True:
            started = clock()
            runs = [host.run.remote(self._plan, pod.name, i) for i, host in enumerate(pod.hosts)]
            ends = [asyncio.create_task(_outcome(run)) for run in runs]
            try:
                done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                logger.warning("a process of %s ended: %s", pod.name, done.pop().result())
                await self._end(pod, signal.SIGKILL)
                await asyncio.gather(*ends)
            finally:
                for end in ends:
                    end.cancel()
            await asyncio.sleep(delay.after(clock() - started))

    async def _place(self, pod: _Pod) -> None:
        """Wait until the cluster has room for all hosts of the pod, then make their actors."""
        assert self._plan is not None
        bundles = [{"CPU": float(self._cpus_per_host)}] * self._plan.fleet.hosts_per_pod
        pod.group = await self._call(placement_group, bundles, "STRICT_PACK", pod.name)
        ready = asyncio.create_task(_outcome(pod.group.ready()))
        try:
            done, _ = await asyncio.wait([ready], timeout=PLACEMENT_WARNING_SECONDS)
            if not done:
                logger.warning(
                    "%s waits: no node of the Ray cluster has room for its %d hosts of %d CPU",
                    *(pod.name, len(bundles), self._cpus_per_host),
                )
            await ready
        finally:
            ready.cancel()
        pod.hosts = await self._call(self._create_hosts, pod.group, len(bundles))

    def _create_hosts(self, group: PlacementGroup, count: int) -> list[Any]:
        actor = ray.remote(num_cpus=self._cpus_per_host, max_restarts=-1)(RayHost)
        places = [PlacementGroupSchedulingStrategy(group, index) for index in range(count)]
        return [actor.options(scheduling_strategy=place).remote() for place in places]

    async def _end(self, pod: _Pod, first: signal.Signals, pids: list[int] | None = None) -> None:
        """End workers of a pod; returns when they are gone or their actors out of reach."""
        if not pod.hosts:
            return
        ends = [asyncio.create_task(_outcome(host.end.remote(first, pids))) for host in pod.hosts]
        _, late = await asyncio.wait(ends, timeout=END_TIMEOUT_SECONDS)
        for end in late:
            logger.warning("an actor of %s does not answer", pod.name)
            end.cancel()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))


def _connect(address: str) -> None:
    # Its warnings tell that it leaves SIGTERM to us and that its token is in use.
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)


async def _outcome(call: Awaitable[object]) -> str:
    """What a call to an actor came to; Ray's errors are outcomes like others."""
    try:
        return f"status {await call}"
    except ray.exceptions.RayError as error:
        return str(error).strip().partition("\n")[0]


def _reachable(controller: Address) -> Address:
    """An address that listens on all interfaces cannot be dialled from another node."""
    if controller.host in ("0.0.0.0", "::"):
        return Address(ray.util.get_node_ip_address(), controller.port)
    return controller
