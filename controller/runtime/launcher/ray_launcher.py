"""Pods on a Ray cluster: the one at an address, or one started on this machine.

`ray_pods` and the actor `ray_host` do the work; nothing else of ours imports ray. Ray is on
nobody's step path: once started, workers talk to the controller and to each other.
"""

from __future__ import annotations

import asyncio
import pathlib
import typing
from collections.abc import Collection

from controller.runtime.launcher.base import WorkerPlan
from controller.runtime.launcher.ray_cluster import RayCluster

if typing.TYPE_CHECKING:
    from controller.runtime.launcher.ray_pods import RayPods

CPUS_PER_HOST = 1
"""What a host asks of Ray. Its devices are virtual, so more of them need no more cores."""

CONNECT_SECONDS = 5.0
"""For a TCP connection to the cluster; Ray itself looks for one that is not there for minutes."""


class RayLauncher:
    """Actors of a Ray cluster."""

    def __init__(self, address: str) -> None:
        """Of the cluster, in Ray's notation; empty to start one."""
        self._address = address
        self._cluster: RayCluster | None = None
        self._pods: RayPods | None = None

    async def start(self, plan: WorkerPlan) -> None:
        """Raises OSError when there is no cluster at the address, or none starts here."""
        address = self._address
        if not address:
            # All hosts find room, however few cores they have to share.
            num_cpus = plan.fleet.pods * plan.fleet.hosts_per_pod * CPUS_PER_HOST
            log = pathlib.Path(plan.state_dir) / "logs" / "ray.log"
            self._cluster = await RayCluster.start(num_cpus, log)
            address = self._cluster.address
        await _look_for(address)
        # Ray settles how it authenticates when it is imported: not before a cluster has settled it.
        from controller.runtime.launcher.ray_pods import RayPods

        self._pods = RayPods(CPUS_PER_HOST)
        await self._pods.start(address, plan)

    async def restart_pod(self, pod: str, pids: Collection[int]) -> None:
        if self._pods is not None:
            await self._pods.end_workers(pod, pids)

    async def stop(self) -> None:
        if self._pods is not None:
            await self._pods.stop()
        if self._cluster is not None:
            await self._cluster.stop()


async def _look_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return  # `auto` or a Ray Client address: Ray finds out.
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error
    writer.close()
