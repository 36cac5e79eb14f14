"""Nobody's launcher: compose, Kubernetes or people start workers, which dial in by themselves."""

from __future__ import annotations

import logging
from collections.abc import Collection

from controller.runtime.launcher.base import WorkerPlan

logger = logging.getLogger(__name__)


class NoLauncher:
    """Starts nothing; whoever started a worker starts it again."""

    async def start(self, plan: WorkerPlan) -> None:
        logger.info("workers are expected to dial %s", plan.controller)

    async def restart_pod(self, pod: str, pids: Collection[int]) -> None:
        logger.warning("%s must be started again by whoever started it", pod)

    async def stop(self) -> None:
        """Nothing was started."""
