"""The controller's runtime and one pod, for programs that no specification names.

The loop, the store, the host service, the launcher and the worker are the real ones; what is left
out is REST and the lowerer, since the bundle is already there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
from collections.abc import AsyncIterator

from controller.config import Address, Fleet
from controller.core import commands, events
from controller.core.batch import BatchPhase
from controller.core.job import JobSpec
from controller.core.liveness import LivenessPolicy
from controller.core.program import Program
from controller.runtime.host_service import ControlService, HostServer, ProgramService
from controller.runtime.launcher.base import WorkerPlan
from controller.runtime.launcher.local import LocalLauncher
from controller.runtime.loop import Loop
from controller.runtime.store import Store


class BundleFleet:
    """One pod of one device that runs bundles."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._state_dir = state_dir
        self._bundles = state_dir / "bundles"
        self._bundles.mkdir()
        self._store = Store(f"sqlite:///{state_dir / 'landbridge.db'}")
        self._store.migrate()
        policy = LivenessPolicy()
        self._loop = Loop(self._store, self._execute, policy=policy)
        self._control = ControlService(
            self._loop.post,
            join_token="",
            heartbeat_interval_seconds=policy.heartbeat_interval,
        )
        self._launcher = LocalLauncher()
        self._digests: dict[str, str] = {}
        self._numbers = itertools.count()

    async def run(self, digest: str, data: bytes, steps: int) -> list[dict[str, float]]:
        """Run a bundle for so many steps; returns the step documents."""
        path = self._bundles / f"{digest.removeprefix('sha256:')}.bundle"
        path.write_bytes(data)
        job = f"job-{next(self._numbers)}"
        self._digests[job] = digest
        await self._loop.ask(events.JobSubmitted(job, _spec(steps)))
        while job in self._loop.state.jobs:
            await self._loop.changed()
        document = self._store.job_document(job)
        assert document is not None
        if document["state"] != "SUCCEEDED":
            raise RuntimeError(document["reason"]["message"])
        while len(found := self._store.steps(job, 0, steps)) < steps:
            await self._loop.changed()
        return found

    def _execute(self, command: commands.Command) -> None:
        match command:
            case commands.LowerProgram(assignment):
                digest = self._digests[assignment.job]
                lowered = Program(digest, 0, 0.0, 0.0, 0)
                self._loop.post(events.ProgramLowered(assignment, lowered))
            case commands.AbandonLowering() | commands.RestartPod():
                raise RuntimeError(f"the benchmark's pod failed: {command}")
            case _:
                self._control.send(command)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BundleFleet]:
        server = HostServer(self._control, ProgramService(self._bundles, ""))
        address = await server.start(Address("127.0.0.1", 0))
        loop = asyncio.create_task(self._loop.run())
        try:
            fleet = Fleet(pods=1, hosts_per_pod=1, devices_per_host=1)
            plan = WorkerPlan(str(address), fleet, "", str(self._state_dir))
            await self._launcher.start(plan)
            yield self
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await self._launcher.stop()
            await server.stop(1.0)
            self._store.close()


def _spec(steps: int) -> JobSpec:
    return JobSpec(
        name="benchmark",
        steps=steps,
        phases=(BatchPhase(1, 1),),
        microbatch=0,
        sequence_length=0,
        digest_every=0,
        seed=0,
        min_pods=1,
        max_pods=1,
        devices_per_pod=1,
        compute_dtype="float32",
        program_request="{}",
        data="{}",
        document="{}",
    )
