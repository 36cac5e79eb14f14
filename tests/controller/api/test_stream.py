"""Server-sent events on a real port: snapshots, journal entries, resumption, the cap, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from tests.controller.rig import Rig, rig, serving

Message = tuple[str, str | None, Any]


@contextlib.asynccontextmanager
async def stream(url: str, topics: str, **headers: str) -> AsyncIterator[AsyncIterator[Message]]:
    """Messages of a stream as (event, id, data)."""
    async with (
        httpx2.AsyncClient(timeout=20) as client,
        client.stream(
            "GET", f"{url}/api/v1/stream", params={"topics": topics}, headers=headers
        ) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        yield _messages(answer)


async def _messages(answer: httpx2.Response) -> AsyncIterator[Message]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])
            fields = {}


async def test_a_job_is_followed_from_now_on(controller: Rig) -> None:
    await controller.attach_pod("pod-0")
    await controller.attach_pod("pod-1")
    job_id = await controller.submit()
    async with serving(controller) as url, stream(url, f"job:{job_id}") as messages:
        event, _, job = await anext(messages)
        assert (event, job["state"]) == ("job", "ADMITTED")
        await controller.start(job_id)
        kinds: list[str] = []
        async for event, number, data in messages:
            if event == "event":
                assert number == str(data["seq"])
                kinds.append(data["kind"])
            elif data["state"] == "RUNNING":
                break
        assert kinds == ["job.lowered", "job.started"]


async def test_topics_share_one_stream(controller: Rig) -> None:
    async with serving(controller) as url, stream(url, "jobs,pods") as messages:
        first = {(await anext(messages))[0] for _ in range(2)}
        assert first == {"jobs", "pods"}
        await controller.attach_pod("pod-0")
        async for event, _, data in messages:
            if event == "pods" and data["pods"]:
                assert data["pods"][0]["name"] == "pod-0"
                break


async def test_a_stream_resumes_behind_the_last_event(controller: Rig) -> None:
    job_id = await controller.submit()
    await controller.http.post(f"/api/v1/jobs/{job_id}/cancel")
    events = (await controller.http.get(f"/api/v1/jobs/{job_id}/events")).json()["events"]
    last = {"Last-Event-ID": str(events[0]["seq"])}
    async with serving(controller) as url, stream(url, "jobs", **last) as messages:
        resumed = [await anext(messages) for _ in range(len(events) - 1)]
    assert [(event, data) for event, _, data in resumed] == [("event", e) for e in events[1:]]


async def test_the_number_of_streams_is_bounded(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, max_streams=1) as controller, serving(controller) as url:
        async with stream(url, "jobs") as messages:
            await anext(messages)
            async with httpx2.AsyncClient() as client:
                refused = await client.get(f"{url}/api/v1/stream?topics=jobs")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
        # The server notices that the reader has gone when it next writes.
        await controller.submit()
        async with asyncio.timeout(10), httpx2.AsyncClient() as client:
            while True:
                async with client.stream("GET", f"{url}/api/v1/stream?topics=jobs") as again:
                    if again.status_code == 200:
                        break


async def test_streams_end_at_once_when_the_server_stops(controller: Rig) -> None:
    async with asyncio.timeout(5):
        async with serving(controller) as url, stream(url, "jobs") as messages:
            await anext(messages)
            controller.context.stopping.set()
            assert [message async for message in messages] == []
