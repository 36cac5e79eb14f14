"""The Python client against a real server."""

from __future__ import annotations

import asyncio

import pytest

from landbridge import errors, sse
from landbridge.client import Client
from tests.controller.rig import SPEC, Rig, spec


async def test_documents_come_back(address: str, controller: Rig) -> None:
    def use() -> None:
        with Client(address) as client:
            job = client.submit(SPEC)
            assert client.job(job["id"])["name"] == "tiny"
            assert [found["id"] for found in client.jobs(state="PENDING")["jobs"]] == [job["id"]]
            assert client.plan(SPEC)["parameters"] > 1e6
            assert client.steps(job["id"])["steps"] == []
            assert client.events(job["id"])["events"][0]["kind"] == "job.submitted"
            assert client.cancel(job["id"])["state"] == "CANCELLED"
            assert client.wait(job["id"], timeout=5)["state"] == "CANCELLED"
            client.delete(job["id"])
            assert client.jobs()["jobs"] == []
            assert client.pods() == {"pods": []}
            assert client.version()["api"] == "v1"

    await asyncio.to_thread(use)


async def test_record_of_a_step_is_waited_for(address: str, controller: Rig) -> None:
    def use(job_id: str) -> int:
        with Client(address) as client:
            with pytest.raises(errors.WaitTimedOut, match="no record of step 3"):
                client.step(job_id, 3, timeout=0.0)
            return client.step(job_id, 2)["step"]

    for pod in ("pod-0", "pod-1"):
        await controller.attach_pod(pod)
    job_id = await controller.submit()
    await controller.start(job_id)
    waiting = asyncio.create_task(asyncio.to_thread(use, job_id))
    await controller.step(job_id, 1, 2)
    assert await waiting == 2


async def test_errors_have_types_and_problems(address: str) -> None:
    def use() -> None:
        with Client(address) as client:
            with pytest.raises(errors.InvalidSpec) as invalid:
                client.submit(spec(version=7))
            assert invalid.value.problem["errors"][0]["pointer"] == "/version"
            with pytest.raises(errors.NotFound):
                client.job("no/such?job")
            with pytest.raises(errors.NotFound):
                client.wait("nobody")
            with pytest.raises(errors.ApiError):
                client.jobs(page_size=0)

    await asyncio.to_thread(use)


async def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(errors.Unreachable):
        client.jobs()
    with Client("nonsense") as client, pytest.raises(errors.Unreachable):
        client.jobs()


async def test_a_wait_outlives_a_restart_of_the_server(address: str, controller: Rig) -> None:
    seen: list[str] = []

    def wait() -> str:
        with Client(address) as client:
            job = client.submit(SPEC)
            return client.wait(job["id"], 20, lambda j: seen.append(j["state"]))["state"]

    waiting = asyncio.create_task(asyncio.to_thread(wait))
    async with asyncio.timeout(20):
        while not controller.loop.state.jobs:
            await controller.loop.changed()
    (job_id,) = controller.loop.state.jobs
    controller.context.stopping.set()  # ends every open stream
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    await controller.start(job_id)
    await controller.step(job_id, *range(1, 21))
    assert await waiting == "SUCCEEDED"
    assert seen[-1] == "SUCCEEDED"


def test_messages_of_a_stream() -> None:
    lines = [": ping", "", "event: a", 'data: {"x":', "data: 1}", "", "data: 2", "", "event: b", ""]
    assert list(sse.messages(lines)) == [sse.Message("a", {"x": 1}), sse.Message("message", 2)]
