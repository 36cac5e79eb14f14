"""The seam to whatever starts worker processes. A launcher starts and stops; it decides nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Protocol

from controller.config import Fleet


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What every worker of the fleet is told at start."""

    controller: str
    """HOST:PORT of the control plane."""
    fleet: Fleet
    join_token: str
    state_dir: str
    """Where workers keep compilation caches and logs."""


class Launcher(Protocol):
    """Keeps the processes of a fleet running."""

    async def start(self, plan: WorkerPlan) -> None:
        """Start every pod and return; hosts announce themselves to the controller when they are
        up."""
        ...

    async def restart_pod(self, pod: str, pids: Collection[int]) -> None:
        """End those of these processes that are still the pod's; the whole pod is started anew."""
        ...

    async def stop(self) -> None:
        """End everything this launcher started; returns when it is gone."""
        ...
