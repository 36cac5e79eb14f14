"""A controller without hosts: the real loop on a real store, an application, and commands recorded.

Hosts are played by posting what they would report. `serving` puts the application on a real port.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import uvicorn

from controller.api.app import create_app
from controller.api.context import ApiContext
from controller.core import commands, events
from controller.core.cluster import Assignment, HostRef, Inventory, Traffic
from controller.core.evaluation import Part
from controller.core.link import LinkConditions
from controller.core.liveness import LivenessPolicy
from controller.core.program import Program
from controller.core.record import StepRecord
from controller.core.sources import DataSource
from controller.runtime.loop import Loop
from controller.runtime.metrics import Metrics
from controller.runtime.store import Store

PROGRAM = Program("sha256:" + "ab" * 32, 2_000_000, 12e6, 13e6, 8_000_000)

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "model": {"preset": "palm-tiny"},
    "data": {"sources": [{"name": "stdlib", "kind": "text", "paths": ["python-stdlib:**/*.py"]}]},
    "train": {"steps": 20, "global_batch": 16, "sequence_length": 256, "microbatch": 4},
    "placement": {"pods": 2},
}


def spec(**sections: Any) -> dict[str, Any]:
    """The valid specification with sections merged in; None drops a key."""
    document = {**SPEC}
    for name, value in sections.items():
        old = document.get(name)
        document[name] = {**old, **value} if isinstance(old, dict) and value else value
        if value is None:
            del document[name]
    return document


@dataclasses.dataclass
class Rig:
    loop: Loop
    store: Store
    metrics: Metrics
    context: ApiContext
    http: httpx2.AsyncClient
    commands: list[commands.Command]

    async def attach_pod(self, name: str, devices: int = 1, peak: float | None = 50e9) -> None:
        """A pod of one host dials in."""
        ref = HostRef(name, 0, f"{name}-1")
        peaks = {"float32": peak} if peak else {}
        inventory = Inventory(
            "cpu", "cpu", devices, 8 << 30, peaks, "calibrated" if peak else "unknown", {"jax": "0"}
        )
        await self.loop.ask(events.HostAttached(ref, 1, f"{name}:1", f"{name}:2", 42))
        await self.loop.ask(events.HostInventoried(ref, inventory))

    async def detach(self, name: str) -> None:
        """A pod of one host is gone."""
        host = HostRef(name, 0, f"{name}-1")
        await self.loop.ask(events.HostDetached(host, f"{host} closed its connection"))

    async def submit(self, document: dict[str, Any] | None = None, **headers: str) -> str:
        answer = await self.http.post("/api/v1/jobs", json=document or SPEC, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def start(self, job_id: str) -> None:
        """Lower the job and have all its hosts ready."""
        await self.loop.ask(events.ProgramLowered(self.assignment(job_id), PROGRAM))
        await self.ready(job_id)

    async def ready(self, job_id: str) -> None:
        """All hosts are; the data is two sources, one three times as large as the other."""
        sources = (DataSource("books", 12, 9000, 30, 30), DataSource("news", 5, 3000, 10, 10))
        for host in self.hosts(job_id):
            event = events.ProgramReady(
                host, self.assignment(job_id), 1.0, 0.5, "sha256:d", 1000, sources
            )
            await self.loop.ask(event)

    async def step(
        self,
        job_id: str,
        *steps: int,
        loss: float = 2.5,
        digest: str = "d" * 64,
        exposed: float = 0.05,
    ) -> None:
        """All pods apply the steps, half a second each, and wait for the link so long."""
        for host in self.hosts(job_id):
            await self._apply(job_id, host, steps, loss, digest, exposed)

    async def step_apart(self, job_id: str, *steps: int) -> None:
        """All pods apply the steps and come to other bits."""
        for host in self.hosts(job_id):
            await self._apply(job_id, host, steps, 2.5, host.pod)

    async def _apply(
        self,
        job_id: str,
        host: HostRef,
        steps: tuple[int, ...],
        loss: float,
        digest: str,
        exposed: float = 0.05,
    ) -> None:
        records = tuple(
            StepRecord(
                step=number,
                time=self.context.clock() + 0.5 * number,
                loss=loss,
                grad_norm=1.0,
                learning_rate=0.01,
                seconds=0.5,
                compute_seconds=0.45,
                exchange_seconds=0.2,
                exposed_seconds=exposed,
                data_wait_seconds=0.0,
                pause_seconds=0.0,
                link_bytes=1000,
                float32_bytes=2000,
                residual_norm=0.25,
                digest=digest if number % 10 == 0 else "",
            )
            for number in steps
        )
        seen = (12 * steps[-1], 4 * steps[-1])
        await self.loop.ask(events.StepsApplied(host, self.assignment(job_id), records, seen))

    async def evaluate(self, job_id: str, step: int, loss: float) -> None:
        """All pods evaluate their shares of the held-out text."""
        for host in self.hosts(job_id):
            part = Part((loss,), num_tokens=256, num_bytes=256)
            await self.loop.ask(events.Evaluated(host, self.assignment(job_id), step, part))

    async def attach_hosts(self, name: str, count: int) -> None:
        """Hosts of one pod dial in and have not looked at their accelerators."""
        for index in range(count):
            ref = HostRef(name, index, f"{name}-1")
            await self.loop.ask(events.HostAttached(ref, count, f"{name}:1", f"{name}:2", 42))

    async def emulate(self, name: str, conditions: LinkConditions, index: int = 0) -> None:
        """A host of the pod says that its link is emulated, and how."""
        host = HostRef(name, index, f"{name}-1")
        await self.loop.ask(events.LinkConditionsReported(host, conditions))

    async def hear(
        self, src: str, dst: str, sent: int, seconds: float, retries: int, rtt: float = 0.01
    ) -> None:
        traffic = {dst: Traffic(sent, seconds, retries, sent / seconds, rtt)}
        await self.loop.ask(events.HostHeard(HostRef(src, 0, f"{src}-1"), traffic))

    def assignment(self, job_id: str) -> Assignment:
        return Assignment(job_id, self.loop.state.jobs[job_id].generation)

    def hosts(self, job_id: str) -> list[HostRef]:
        gang = self.loop.state.jobs[job_id].gang
        return [HostRef(pod, 0, f"{pod}-1") for pod in gang]


@contextlib.asynccontextmanager
async def rig(folder: pathlib.Path, **context: Any) -> AsyncIterator[Rig]:
    store = Store(f"sqlite:///{folder / 'test.db'}")
    store.migrate()
    ordered: list[commands.Command] = []
    metrics = Metrics(lambda: loop.state)
    loop = Loop(
        store,
        ordered.append,
        policy=LivenessPolicy(silence_grace=3600.0, release_grace=3600.0),
        observe_latency=metrics.observe_latency,
        observe_steps=metrics.observe_steps,
        observe_job=metrics.observe_job,
        observe_event=metrics.observe_event,
    )
    full = ApiContext(
        loop=loop,
        store=store,
        registry=metrics.registry,
        forget_job=metrics.forget,
        **{"check_data_paths": True, **context},
    )
    transport = httpx2.ASGITransport(create_app(full), raise_app_exceptions=False)
    running = asyncio.create_task(loop.run())
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        try:
            yield Rig(loop, store, metrics, full, http, ordered)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            store.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(of: Rig) -> AsyncIterator[str]:
    """The address of a real server in this event loop, for as long as it is needed."""
    sock = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(of.context), log_config=None, lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        of.context.stopping.set()
        server.should_exit = True
        await task
