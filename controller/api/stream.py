"""Server-sent events: one stream per reader carries all topics it asked for.

Two kinds of message. `event` is a journal entry; its id is the entry's number, from which a reader
resumes. `jobs`, `pods` and `job` are snapshots: the newest replaces the one before, so nothing is
queued for a slow reader. Steps are not streamed; a reader that sees a job move on asks for /steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from controller.api import fleet, jobs, records
from controller.api.answers import json_text
from controller.api.context import ApiContext, Context
from controller.api.problems import RESPONSES, ApiProblem
from controller.runtime.store import JobQuery

router = APIRouter(tags=["stream"], responses=RESPONSES)

SNAPSHOT_SECONDS = 0.5
"""At most two snapshots a second and topic: as fast as anybody reads."""

_JOBS_SHOWN = 50
_ENTRIES_AT_A_TIME = 500


class Slots:
    """How many streams are open, and the most there may be."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    def take(self) -> None:
        """Raises ApiProblem when none is left."""
        if self._open >= self._most:
            detail = f"{self._most} streams are open, which is the most there may be"
            raise ApiProblem(503, "too-many-streams", detail, headers={"Retry-After": "5"})
        self._open += 1

    def give_back(self) -> None:
        self._open -= 1


async def _slot(request: Request) -> AsyncIterator[None]:
    slots: Slots = request.app.state.streams
    slots.take()
    try:
        yield
    finally:
        slots.give_back()


async def _topics(
    topics: Annotated[
        str, Query(max_length=1024, description="jobs, pods, job:ID; commas between")
    ],
) -> list[str]:
    names = [name.strip() for name in topics.split(",") if name.strip()]
    wrong = [name for name in names if name not in ("jobs", "pods") and not name.startswith("job:")]
    if wrong or not names:
        detail = f"{wrong[0][:60]!r} is no topic" if wrong else "no topic is named"
        raise ApiProblem(422, "invalid-request", f"{detail}; there are: jobs, pods, job:ID")
    return names


@router.get(
    "/stream",
    operation_id="stream",
    response_class=EventSourceResponse,
    dependencies=[Depends(_slot)],
)
async def stream(
    context: Context,
    topics: Annotated[list[str], Depends(_topics)],
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Journal entries and snapshots as they come. Without Last-Event-ID it starts now."""
    seq = await _first_seq(context, last_event_id)
    sent: dict[str, str] = {}
    while not context.stopping.is_set():
        changed = asyncio.ensure_future(context.loop.changed())
        try:
            entries, snapshots = await asyncio.to_thread(_news, context, topics, seq)
            for entry in entries:
                seq = entry["seq"]
                if _concerns(entry, topics):
                    yield ServerSentEvent(
                        raw_data=json_text(entry), event="event", id=str(entry["seq"])
                    )
            for name, text in snapshots.items():
                if sent.get(name) != text:
                    sent[name] = text
                    yield ServerSentEvent(raw_data=text, event=name.partition(":")[0])
            if len(entries) < _ENTRIES_AT_A_TIME:
                await _until(context, asyncio.sleep(SNAPSHOT_SECONDS))
                await _until(context, changed)
        finally:
            changed.cancel()


async def _until(context: ApiContext, awaitable: Any) -> None:
    """Wait for it, or for the server to stop."""
    tasks = {asyncio.ensure_future(awaitable), asyncio.ensure_future(context.stopping.wait())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _first_seq(context: ApiContext, last_event_id: str | None) -> int:
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
        return min(int(last_event_id[:18]), 1 << 62)
    return await asyncio.to_thread(context.store.last_event_seq)


def _news(
    context: ApiContext, topics: list[str], seq: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Journal entries behind `seq`, and a snapshot per topic; blocks."""
    rows = context.store.events(seq, _ENTRIES_AT_A_TIME)
    snapshots = {topic: json_text(_snapshot(context, topic)) for topic in topics}
    return [records.event_document(row) for row in rows], snapshots


def _snapshot(context: ApiContext, topic: str) -> Any:
    if topic == "jobs":
        documents, _ = jobs.job_page(context, JobQuery(page_size=_JOBS_SHOWN))
        return {"jobs": documents}
    if topic == "pods":
        return {"pods": [_without_ages(document) for document in fleet.pod_documents(context)]}
    job_id = topic.removeprefix("job:")
    return jobs.live_document(context, job_id) or context.store.job_document(job_id)


def _without_ages(pod: dict[str, Any]) -> dict[str, Any]:
    """An age is another at every look, and would make every snapshot a new one."""
    hosts = [{k: v for k, v in host.items() if k != "heard_seconds_ago"} for host in pod["hosts"]]
    return {**pod, "hosts": hosts}


def _concerns(entry: dict[str, Any], topics: list[str]) -> bool:
    return (
        ("jobs" in topics and entry["job"] is not None)
        or ("pods" in topics and entry["pod"] is not None)
        or f"job:{entry['job']}" in topics
    )
