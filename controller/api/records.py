"""What is written down about jobs: steps (measurements), events (decisions), the specification."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from controller.api.answers import json_response
from controller.api.context import ApiContext, Context
from controller.api.problems import RESPONSES, no_such_job
from controller.core import attempts

router = APIRouter(tags=["records"], responses=RESPONSES)

_MOST_ENTRIES = 5_000

_LARGEST = (1 << 63) - 1

After = Annotated[int, Query(ge=0, le=_LARGEST, description="only those behind this one")]
Limit = Annotated[int, Query(ge=1, le=10_000)]


@router.get("/jobs/{job_id}/steps", operation_id="listSteps")
def list_steps(
    job_id: str,
    context: Context,
    after: After = 0,
    limit: Limit = 1000,
    points: Annotated[
        int | None, Query(ge=2, le=2000, description="at most about so many, spread evenly")
    ] = None,
) -> Response:
    """Steps of a job in order: loss, timings, MFU, digests."""
    _must_exist(job_id, context)
    if points is not None:
        steps = context.store.sampled_steps(job_id, after, points)
    else:
        steps = context.store.steps(job_id, after, limit)
    return json_response({"steps": steps, "next_after": steps[-1]["step"] if steps else after})


@router.get("/jobs/{job_id}/events", operation_id="listJobEvents")
def list_job_events(
    job_id: str, context: Context, after: After = 0, limit: Limit = 1000
) -> Response:
    """What was decided about a job, and why."""
    _must_exist(job_id, context)
    return _events(context, after, limit, job_id)


@router.get("/jobs/{job_id}/attempts", operation_id="listAttempts")
def list_attempts(job_id: str, context: Context) -> Response:
    """Attempts of a job, oldest first: what each was at and when, by generation, and what happened
    to it."""
    _must_exist(job_id, context)
    return json_response({"attempts": attempts_of(job_id, context)})


@router.get("/events", operation_id="listEvents")
def list_events(context: Context, after: After = 0, limit: Limit = 1000) -> Response:
    """What was decided about all jobs and pods, and why."""
    return _events(context, after, limit, None)


@router.get("/jobs/{job_id}/spec", operation_id="getJobSpec")
def get_job_spec(job_id: str, context: Context) -> Response:
    """The specification: `text` as submitted, `normalised` with every default written out."""
    spec = context.store.job_spec(job_id)
    if spec is None:
        raise no_such_job(job_id)
    return json_response(spec)


def attempts_of(job_id: str, context: ApiContext) -> list[dict[str, Any]]:
    """Blocks; of a job that was interrupted thousands of times the last attempts."""
    return attempts.attempts(context.store.events_of_kinds(job_id, attempts.KINDS, _MOST_ENTRIES))


def event_document(row: dict[str, Any]) -> dict[str, Any]:
    """A journal entry as readers see it."""
    return {
        "seq": row["seq"],
        "time": row["time"],
        "kind": row["kind"],
        "message": row["message"],
        "job": row["job_id"],
        "pod": row["pod"],
        "data": row["data"],
    }


def _events(context: ApiContext, after: int, limit: int, job_id: str | None) -> Response:
    events = [event_document(row) for row in context.store.events(after, limit, job_id)]
    return json_response({"events": events, "next_after": events[-1]["seq"] if events else after})


def _must_exist(job_id: str, context: ApiContext) -> None:
    if job_id not in context.loop.state.jobs and context.store.job_document(job_id) is None:
        raise no_such_job(job_id)
