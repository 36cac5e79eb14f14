"""Jobs: submit, list, look at, cancel, delete.

Live jobs are shown from the loop's state, finished ones from the store, in the same words. Nothing
is decided here; the loop is asked.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from controller.api import submissions
from controller.api.answers import json_response
from controller.api.context import ApiContext, Context
from controller.api.problems import RESPONSES, ApiProblem, no_such_job
from controller.core import view
from controller.core.errors import CannotSave, CheckpointGone, JobIsLive, UnknownJob
from controller.core.events import (
    CancelRequested,
    CheckpointRequested,
    DeleteRequested,
    RetryRequested,
)
from controller.core.job import JobState
from controller.runtime.store import InvalidPageToken, JobQuery

router = APIRouter(tags=["jobs"], responses=RESPONSES)

SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": {"$ref": "#/components/schemas/Spec"}}
            for media_type in ("application/json", "application/yaml")
        },
    }
}


@router.post("/jobs", operation_id="submitJob", status_code=201, openapi_extra=SPEC_BODY)
async def submit_job(
    request: Request,
    context: Context,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Submit a job spec. All errors come at once; nothing starts unless there are none."""
    with request.app.state.keys_under_way.hold(idempotency_key):
        job_id = await submissions.earlier_job(request, idempotency_key, context)
        replayed = job_id is not None
        if job_id is None:
            submission = await submissions.read(request, context)
            try:
                job_id = await submissions.submit(submission, idempotency_key, context)
            except CheckpointGone as error:
                raise ApiProblem(409, "checkpoint-gone", str(error)) from None
    document = await asyncio.to_thread(job_document, context, job_id)
    headers = {"Location": f"/api/v1/jobs/{job_id}"}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return json_response(document, 201, headers)


@router.get("/jobs", operation_id="listJobs")
def list_jobs(
    context: Context,
    state: Annotated[list[JobState] | None, Query()] = None,
    queue: Annotated[str | None, Query(max_length=63)] = None,
    label: Annotated[list[str] | None, Query(description="KEY=VALUE; all must match")] = None,
    q: Annotated[str | None, Query(max_length=63, description="part of the name")] = None,
    page_size: Annotated[int, Query(ge=1, le=500)] = 50,
    page_token: Annotated[str | None, Query(max_length=512)] = None,
    fields: Annotated[str | None, Query(max_length=1024, description="comma-separated")] = None,
) -> Response:
    """Jobs, newest first, a page at a time."""
    query = JobQuery(
        states=[str(item) for item in state or ()],
        queue=queue,
        labels=dict(_label(item) for item in label or ()),
        text=q,
        page_size=page_size,
        page_token=page_token,
    )
    documents, token = job_page(context, query)
    if fields is not None:
        documents = [_masked(document, fields) for document in documents]
    return json_response({"jobs": documents, "next_page_token": token})


@router.get("/jobs/{job_id}", operation_id="getJob")
def get_job(job_id: str, context: Context) -> Response:
    """One job: state, reason, progress, loss, speed and where its time went."""
    return json_response(job_document(context, job_id))


@router.get("/jobs/{job_id}/checkpoints", operation_id="listCheckpoints")
def list_checkpoints(job_id: str, context: Context) -> Response:
    """Published checkpoints that are kept, oldest first: step, digest of the state, bytes, time."""
    return json_response({"checkpoints": job_document(context, job_id)["checkpoints"]})


@router.post("/jobs/{job_id}/cancel", operation_id="cancelJob")
async def cancel_job(job_id: str, context: Context) -> Response:
    """Stop a job. Asking again is no error; a job that has ended by itself is a conflict."""
    try:
        await context.loop.ask(CancelRequested(job_id, "a request to the API"))
    except UnknownJob:
        document = await asyncio.to_thread(job_document, context, job_id)
        if document["state"] != JobState.CANCELLED:
            detail = f"job {job_id} is {document['state']}; only a job that has not ended can stop"
            raise ApiProblem(409, "job-has-ended", detail) from None
    return json_response(await asyncio.to_thread(job_document, context, job_id))


@router.post("/jobs/{job_id}/retry", operation_id="retryJob")
async def retry_job(job_id: str, context: Context) -> Response:
    """Try a job that failed or was cancelled once more, from its newest checkpoint."""
    job = await asyncio.to_thread(context.store.job, job_id)
    if job is None:
        raise no_such_job(job_id)
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        detail = f"job {job_id} is {job.state}; only one that failed or was cancelled is retried"
        raise ApiProblem(409, "job-has-not-failed", detail)
    try:
        await context.loop.ask(RetryRequested(job, "a request to the API"))
    except JobIsLive as error:
        raise ApiProblem(409, "job-is-live", str(error)) from None
    return json_response(await asyncio.to_thread(job_document, context, job_id))


@router.post("/jobs/{job_id}/checkpoint", operation_id="checkpointJob", status_code=202)
async def checkpoint_job(job_id: str, context: Context) -> Response:
    """Have the state written to disk soon; it is in the list of checkpoints when it is there."""
    try:
        await context.loop.ask(CheckpointRequested(job_id, "a request to the API"))
    except UnknownJob:
        document = await asyncio.to_thread(job_document, context, job_id)
        detail = f"job {job_id} is {document['state']}; only a running job can be saved"
        raise ApiProblem(409, "cannot-save", detail) from None
    except CannotSave as error:
        raise ApiProblem(409, "cannot-save", str(error)) from None
    return json_response(await asyncio.to_thread(job_document, context, job_id), 202)


@router.delete("/jobs/{job_id}", operation_id="deleteJob", status_code=204)
async def delete_job(job_id: str, context: Context) -> Response:
    """Forget a finished job, its steps and its events."""
    await asyncio.to_thread(job_document, context, job_id)
    try:
        await context.loop.ask(DeleteRequested(job_id))
    except JobIsLive as error:
        raise ApiProblem(409, "job-is-live", str(error)) from None
    context.forget_job(job_id)
    return Response(status_code=204)


def job_document(context: ApiContext, job_id: str) -> view.Document:
    """What readers see of a job now; blocks; raises ApiProblem when there is none."""
    live = live_document(context, job_id)
    # A job leaves the state only after the store knows how it ended, so this order misses none.
    if live is not None:
        return live
    document = context.store.job_document(job_id)
    if document is None:
        raise no_such_job(job_id)
    return view.completed(document)


def live_document(context: ApiContext, job_id: str) -> view.Document | None:
    """What readers see of a job that has not ended."""
    state = context.loop.state
    job = state.jobs.get(job_id)
    return view.job_document(job, state, context.clock()) if job is not None else None


def job_page(context: ApiContext, query: JobQuery) -> tuple[list[view.Document], str | None]:
    """A page of jobs as they are now; blocks; raises ApiProblem for a foreign page token."""
    try:
        stored, token = context.store.list_jobs(query)
    except InvalidPageToken as error:
        raise ApiProblem(422, "invalid-page-token", str(error)) from error
    return [
        live_document(context, document["id"]) or view.completed(document) for document in stored
    ], token


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ApiProblem(422, "invalid-request", f"label={text[:60]!r} is not KEY=VALUE")
    return key, value


def _masked(document: view.Document, fields: str) -> view.Document:
    names = [name.strip() for name in fields.split(",") if name.strip()]
    unknown = [name for name in names if name not in document]
    if unknown:
        detail = f"jobs have no field {unknown[0][:60]!r}; there are: {', '.join(document)}"
        raise ApiProblem(422, "invalid-request", detail)
    return {name: document[name] for name in document if name == "id" or name in names}
